"""Whether an exported file says what the model says, on images with masks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from fullyconv import metrics
from fullyconv.evaluation import Comparison
from fullyconv.labels import LabelSet
from fullyconv.runtimes.formats import Run
from fullyconv.runtimes.pipeline import Output, Pixels, as_input


@dataclass(frozen=True)
class Parity:
    """A model and its exported file on the same images.

    Args:
        labels: The classes.
        model: The model's pixel counts, row target, column pred.
        file: The file's.
        common: Row the model's class, column the file's.
        images: How many there were.
        budget: How far the two values of mean IoU may lie apart, in points (hundredths).
    """

    labels: LabelSet
    model: Int64[Tensor, "k k"]
    file: Int64[Tensor, "k k"]
    common: Int64[Tensor, "k k"]
    images: int
    budget: float

    @property
    def delta(self) -> float:
        """Mean IoU of the file less that of the model; a fraction."""
        return metrics.mean_iou(self.file) - metrics.mean_iou(self.model)

    @property
    def within(self) -> bool:
        """Whether the budget is kept; a difference that is not a number keeps none."""
        return 100 * abs(self.delta) <= self.budget

    def to_json(self) -> dict[str, Any]:
        """Plain values, scores as fractions; `budget` is in points."""
        return {
            "images": self.images,
            "pixel_agreement": metrics.pixel_accuracy(self.common),
            "mean_iou": {
                "model": metrics.mean_iou(self.model),
                "file": metrics.mean_iou(self.file),
                "delta": self.delta,
            },
            "classes": [
                {"name": name, "model": model, "file": file, "delta": file - model}
                for name, model, file in zip(
                    self.labels.names, metrics.iou(self.model).tolist(), metrics.iou(self.file).tolist(), strict=True
                )
            ],
            "budget": self.budget,
            "within_budget": self.within,
        }

    def __str__(self) -> str:
        values = self.to_json()
        rows = [*values["classes"], {"name": "mean IoU", **values["mean_iou"]}]
        width = max(len(row["name"]) for row in rows)
        return "\n".join(
            [
                f"{'IoU in percent':<{width}}   model    file   delta",
                *(
                    f"{row['name']:<{width}}  {100 * row['model']:6.2f}  {100 * row['file']:6.2f}"
                    f"  {100 * row['delta']:+6.2f}"
                    for row in rows
                ),
                f"{100 * values['pixel_agreement']:.3f} % of the pixels of {self.images} images agree; "
                f"the budget of {self.budget:g} points of mean IoU is {'kept' if self.within else 'exceeded'}",
            ]
        )


def measure(comparison: Comparison, run: Run, *, budget: float, pixels: Pixels, output: Output) -> Parity:
    """The parity of a model and its file, which `run` runs."""
    mine, its, common = comparison.against(_labels(run, pixels, output))
    return Parity(comparison.segmenter.labels, mine.confusion, its.confusion, common, len(mine.names), budget)


def _labels(run: Run, pixels: Pixels, output: Output) -> Callable[[Tensor], Tensor]:
    def labels(image: Shaped[Tensor, "c h w"]) -> Shaped[Tensor, "h w"]:
        pred = run(as_input(image, pixels))[0]
        # Of logits the class is the highest; at a tie the lowest index, as in the graph.
        return torch.from_numpy(np.ascontiguousarray(pred if output == "labels" else pred.argmax(0).astype(np.int32)))

    return labels
