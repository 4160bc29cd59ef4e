"""Data that every machine has: handwritten digits on canvases, written out as a data set."""

import json
from pathlib import Path

from PIL import Image

from fullyconv.datasets import Dataset, digits, open_dataset

TRAIN_IMAGES, VAL_IMAGES = 300, 60


def write_digits(folder: Path, *, seed: int, train: int = TRAIN_IMAGES, val: int = VAL_IMAGES) -> Dataset:
    """Canvases with masks as a data set in `folder`; written again only if it is not there. Those of val are by other
    hands."""
    if not (folder / "classes.json").is_file():
        parts: list[tuple[str, digits.Split, int]] = [("train", "train", train), ("val", "test", val)]
        for split, hand, count in parts:
            for kind in ("images", "masks"):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
            for position in range(count):
                image, mask = digits.canvas(hand, position, seed=seed)
                Image.fromarray(image).save(folder / "images" / split / f"{position:04d}.png")
                Image.fromarray(mask).save(folder / "masks" / split / f"{position:04d}.png")
        (folder / "classes.json").write_text(json.dumps(digits.LABELS.names), encoding="utf-8")  # last: all is there
    return open_dataset(folder)
