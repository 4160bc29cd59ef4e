"""Pictures of a few pixels, and data sets of them, for tests that train."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 24


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Writes a picture, its folders too; gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def squares(root: Path, *, train: int, val: int, size: tuple[int, int] = (40, 48)) -> Path:
    """Pictures of a bright square on noise, 00.png, 01.png, ..., those to train on first; gives the folder.

    Args:
        root: Gets images/, masks/ and classes.txt: ground and square; the first two rows of masks are ignored.
        train: How many to train on.
        val: How many to validate on.
        size: Height and width.
    """
    height, width = size
    random = np.random.default_rng(0)
    for number in range(train + val):
        split = "train" if number < train else "val"
        pixels = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        top, left = random.integers(0, height - SIDE), random.integers(0, width - SIDE)
        pixels[top : top + SIDE, left : left + SIDE] += 120
        mask[top : top + SIDE, left : left + SIDE] = 1
        mask[:2] = 255
        save(root / "images" / split / f"{number:02d}.png", pixels)
        save(root / "masks" / split / f"{number:02d}.png", mask)
    (root / "classes.txt").write_text("ground\nsquare\n")
    return root
