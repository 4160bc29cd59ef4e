"""The answer: the label map of one image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fullyconv import drawing, images
from fullyconv.labels import LabelSet


@dataclass(frozen=True)
class Segmentation:
    """The label map of one image.

    Args:
        mask: Class indices `(H, W)`, uint8, or uint16 above 256 classes.
        labels: What they mean.
        image: What was looked at, `(C, H, W)`, uint8 or float in [0, 1].
    """

    mask: np.ndarray[Any, Any]
    labels: LabelSet
    image: Tensor

    def overlay(self, *, alpha: float = 0.55, legend: bool = True) -> Image.Image:
        """The image with the classes laid over it and a legend of those that occur.

        Args:
            alpha: How strongly the class colours cover the image, in [0, 1].
            legend: Whether the classes that occur are named.
        """
        return drawing.overlay(images.to_rgb(self.image), self.mask, self.labels, alpha=alpha, legend=legend)

    def share(self) -> dict[str, float]:
        """The fraction of the pixels of each class that occurs, the largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels))
        order = np.argsort(-counts, kind="stable")
        return {self.labels.names[index]: float(counts[index] / self.mask.size) for index in order if counts[index]}

    def save(self, folder: str | Path, name: str) -> tuple[Path, Path]:
        """Writes the index PNG `name.png` with the palette, and `name_overlay.png`; gives both paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mask, overlay = output_files(folder, name)
        images.write_mask(mask, self.mask, self.labels)
        images.write_picture(overlay, self.overlay())
        return mask, overlay


def output_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Where `Segmentation.save` writes: the index PNG and the overlay."""
    return folder / f"{name}.png", folder / f"{name}_overlay.png"
