"""What the experiments are made on: data that the user has, or digits that every machine has."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fullyconv.datasets import Dataset, digits, open_dataset, with_heads
from fullyconv.experiments import Place

TRAIN_IMAGES, VAL_IMAGES = 300, 60
PARITY = ("background", "even", "odd")
HEIGHT, NOISE = 40, 12  # of digits above the ground, and of the depth, in grey levels

Array = np.ndarray[Any, Any]


def known_data(places: Sequence[Place]) -> tuple[str | None, tuple[str, ...], str | None]:
    """DATA, ALSO and CAMERA of the first place that exists; None and nothing if none does."""
    root = os.environ.get("FULLYCONV_DATA")
    for place in places if root else ():
        folder = Path(root or "") / place.folder
        if folder.is_dir():
            also = tuple(one.replace("%s", str(folder)) for one in place.also)
            return place.data.replace("%s", str(folder)), also, place.camera
    return None, (), None


def plain(dataset: Dataset, *, heads: bool = False) -> Dataset:
    """The images alone, without their depth and the like, under their first labels, or under those of all heads."""
    splits = {split: tuple(replace(pair, more=()) for pair in pairs) for split, pairs in dataset.splits.items()}
    return replace(dataset, splits=splits, also=tuple(map(plain, dataset.also)) if heads else ())


def write_digits(
    folder: Path, *, seed: int, train: int = TRAIN_IMAGES, val: int = VAL_IMAGES, size: tuple[int, int] = (128, 160)
) -> Dataset:
    """Handwritten digits on cluttered canvases, written into `folder` unless they are there.

    Each scene has a depth map, above whose noisy, sloping ground the digits rise, and a second mask, which tells even
    from odd digits. Those of val are by other hands.

    Args:
        folder: For images/, masks/, parity/ and depth/.
        seed: Of the canvases.
        train: How many there are to train on.
        val: How many there are to score.
        size: Height and width in pixels.
    """
    done = folder / "done.json"
    if not done.is_file():
        parts: list[tuple[str, digits.Split, int]] = [("train", "train", train), ("val", "test", val)]
        for split, hand, count in parts:
            for position in range(count):
                _write_scene(folder, split, position, *digits.canvas(hand, position, seed=seed, size=size))
        for kind, names in (("masks", digits.LABELS.names), ("parity", PARITY)):
            (folder / kind / "classes.json").write_text(json.dumps(names), encoding="utf-8")
        done.write_text(json.dumps({"seed": seed, "train": train, "val": val}), encoding="utf-8")
    semantic, parity = (
        f"folder:{folder}?images=images/{{split}}/{{name}}.png&masks={kind}/{{split}}/{{name}}.png{more}"
        for kind, more in (("masks", "&more=depth/{split}/{name}.png"), ("parity", ""))
    )
    return with_heads(replace(open_dataset(semantic), name="digit"), [f"parity={parity}"])


def _write_scene(folder: Path, split: str, position: int, image: Array, mask: Array) -> None:
    random = np.random.default_rng((position, split == "val"))
    pictures = {"images": image, "masks": mask, "parity": parity_of(mask), "depth": depth_of(mask, random)}
    for kind, picture in pictures.items():
        file = folder / kind / split / f"{position:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file, compress_level=1)


def parity_of(mask: Array) -> Array:
    """The mask of the digits' parity: 0 background, 1 even, 2 odd."""
    return np.where(mask > 0, 2 - mask % 2, 0).astype(np.uint8)  # a digit's class is its value plus 1


def depth_of(mask: Array, random: np.random.Generator) -> Array:
    """Height over a sloping ground in grey levels `(H, W)` uint8: digits rise above it, and the sensor is noisy."""
    across, down = (np.linspace(-1, 1, extent) for extent in (mask.shape[1], mask.shape[0]))
    slope = random.uniform(-40, 40, 2)
    ground = 100 + slope[0] * across[None, :] + slope[1] * down[:, None]
    height = ground + HEIGHT * (mask > 0) + random.normal(0, NOISE, mask.shape)
    return np.asarray(height.clip(0, 255).round(), np.uint8)
