"""Training samples from files."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from fullyconv.benchmark import inputs
from fullyconv.benchmark.comparing import Sides, Work
from fullyconv.benchmark.machine import Cost, on_threads
from fullyconv.datasets import Pair
from fullyconv.labels import LabelSet
from fullyconv.sampling import Stream
from fullyconv.training.loading import CACHE_BYTES, Decoder, Samples
from fullyconv.transforms import Augmentation

CLASSES = 11


def works(quick: bool) -> list[Work]:
    """Training samples from files, decoded and augmented on one thread, as each worker does.

    Scale, crop, flip and light on both sides; ours also gamma, tint, stretch, and crops laid over rare classes. The
    limit is one look at the decoded bytes and one write of the samples.
    """
    count, size, crop = (2, (40, 48), (32, 32)) if quick else (16, (360, 480), (288, 384))
    return [
        Work(
            f"{count} samples of {crop[0]}x{crop[1]} from PNG of {size[0]}x{size[1]}, {kind}",
            "PIL and torchvision transforms.v2",
            partial(_sides, once, count, size, crop),
            alike=False,
        )
        for kind, once in (("decoded once", True), ("decoded each time", False))
    ]


def _sides(once: bool, count: int, size: tuple[int, int], crop: tuple[int, int]) -> Sides:
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name)
    files = _write(root, count, size)
    pairs = [Pair(picture.stem, picture, truth) for picture, truth in files]
    labels = LabelSet(tuple(f"class {number}" for number in range(CLASSES)))
    decoder = Decoder(pairs, labels, (3,), limit=CACHE_BYTES if once else 0)
    samples = Samples(decoder, Stream(0, count), Augmentation(crop=crop))
    decoded = [_decoded(*pair) for pair in files] if once else None
    read = (3 + 1) * size[0] * size[1]
    written = (4 * 3 + 1) * crop[0] * crop[1]
    return Sides(
        on_threads(1)(lambda: [samples[position] for position in range(count)]),
        on_threads(1)(partial(_by_torchvision, files, decoded, _augmentation(crop))),
        Cost(bytes=count * (read + written)),
        close=folder.cleanup,
    )


def _write(root: Path, count: int, size: tuple[int, int]) -> list[tuple[Path, Path]]:
    """Pictures and masks as files; gives their paths."""
    files = []
    pictures = (255 * inputs.image(count, size)).byte().permute(0, 2, 3, 1).numpy()
    mask = Image.fromarray(inputs.mask(CLASSES, size).numpy())
    for number, pixels in enumerate(pictures):
        picture, truth = root / f"{number}.png", root / f"{number}_mask.png"
        Image.fromarray(pixels).save(picture)
        mask.save(truth)
        files.append((picture, truth))
    return files


def _augmentation(crop: tuple[int, int]) -> Callable[..., tuple[Tensor, Tensor]]:
    """What torchvision's users compose for the same changes: size, shape, side and light."""
    composed: Callable[..., tuple[Tensor, Tensor]] = v2.Compose(
        [
            v2.RandomResizedCrop(crop, scale=(0.35, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.25, 0.3, 0.35),
            v2.ToImage(),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
        ]
    )
    return composed


def _by_torchvision(
    files: list[tuple[Path, Path]],
    decoded: list[tuple[Image.Image, tv_tensors.Mask]] | None,
    augment: Callable[..., tuple[Tensor, Tensor]],
) -> list[object]:
    return [augment(*pair) for pair in decoded or (_decoded(*pair) for pair in files)]


def _decoded(picture: Path, truth: Path) -> tuple[Image.Image, tv_tensors.Mask]:
    with Image.open(picture) as image, Image.open(truth) as mask:
        return image.convert("RGB"), tv_tensors.Mask(v2.functional.pil_to_tensor(mask))
