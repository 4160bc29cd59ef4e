"""How good a segmentation is: one confusion matrix, and the scores that are read off it.

Every pixel is counted once, at the resolution of the truth, in int64. Matrices of parts add up to the matrix of the
whole, so a score never depends on batches, their order, or the number of processes.

Source: Long, Shelhamer and Darrell 2015, section 5.
"""

from typing import Literal

import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

from fullyconv import kernels
from fullyconv.errors import FullyconvError
from fullyconv.kernels.reference import listed, refuse_illegal_truth

Absent = Literal["paper", "target", "zero", "one", "nan"]

TITLES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_iou": "mean IoU",
    "frequency_weighted_iou": "frequency weighted IoU",
}
"""The names of the four `scores` for people."""

CONVENTIONS: dict[str, str] = {
    "paper": "The paper's: a class in neither truth nor prediction is left out; one that is only predicted counts 0.",
    "pytorch_fcn": "pytorch-fcn and the authors' score.py: the paper's.",
    "paper_sift_flow": "The paper's on SIFT Flow: only classes that occur in the truth, 30 of 33 (footnote 9).",
    "mmsegmentation": "mmsegmentation and Hugging Face evaluate: the paper's.",
    "torchmetrics_jaccard": "torchmetrics JaccardIndex and scikit-learn (macro): the paper's.",
    "detectron2": "detectron2 and Ultralytics: only classes that occur in the truth.",
    "smp_macro": "segmentation-models-pytorch 'macro': a class in neither counts 1.",
    "smp_micro": "segmentation-models-pytorch 'micro' and torchgeo: all classes pooled, so large classes decide.",
    "torchvision": "torchvision's reference script: the plain mean, not a number as soon as one class is in neither.",
    "paddleseg": "PaddleSeg: a class in neither counts 0.",
    "segnet": "SegNet's CamVid script: a class in neither counts 0.",
    "torchmetrics_mean_iou": "torchmetrics segmentation.MeanIoU: the mean over pairs of an image and a class in it.",
}
"""What each number of `conventions` is; the mean intersection over union as other programs define it."""


def confusion_matrix(
    target: Integer[Tensor, "..."], pred: Integer[Tensor, "..."], num_classes: int, ignore_index: int = 255
) -> Int64[Tensor, "k k"]:
    """How many pixels of each true class were given each class: row target, column pred.

    Args:
        target: True class indices, any shape; `ignore_index` where a pixel does not count.
        pred: Predicted class indices, same shape. Under an ignored target any value goes.
        num_classes: Number of classes K.
        ignore_index: The target value that is not counted.

    Returns:
        Counts on the device of `target`. uint8 masks on the CPU are the fast path.

    Raises:
        FullyconvError: SEG-E001 or SEG-E002 for a target or prediction that is no class, SEG-E003 for unlike shapes.
            Nothing is ever dropped in silence.
    """
    if target.shape != pred.shape:
        raise FullyconvError(
            "SEG-E003",
            f"truth and prediction must have one size, got {_size(target)} and {_size(pred)} (height, width)",
        )
    counts = kernels.count_pairs(target, pred, num_classes, ignore_index)
    if counts[-1].any() or counts[:-2, -1].any():
        _refuse_illegal(target, pred.to(target.device), num_classes, ignore_index)
    return counts[:-2, :-1].contiguous()


def iou(confusion: Int64[Tensor, "k k"]) -> Float64[Tensor, " k"]:
    """Intersection over union of each class, in [0, 1]; NaN for a class in neither truth nor prediction."""
    return iou_of_counts(class_counts(confusion))


def accuracy(confusion: Int64[Tensor, "k k"]) -> Float64[Tensor, " k"]:
    """Share of each class's pixels that were found (recall), in [0, 1]; NaN for a class that the truth lacks."""
    return confusion.diagonal().double() / confusion.sum(1)


def pixel_accuracy(confusion: Int64[Tensor, "k k"]) -> float:
    """Share of all pixels that got their class, in [0, 1]; NaN if no pixel was counted."""
    return float(confusion.diagonal().sum().double() / confusion.sum())


def mean_accuracy(confusion: Int64[Tensor, "k k"]) -> float:
    """Mean of `accuracy` over the classes that occur in the truth, in [0, 1]; NaN if no pixel was counted."""
    return float(accuracy(confusion).nanmean())


def mean_iou(confusion: Int64[Tensor, "k k"], *, absent: Absent = "paper") -> float:
    """Mean of `iou` over classes, in [0, 1].

    Args:
        confusion: Pixel counts, row target, column pred.
        absent: What becomes of a class that has no pixel. "paper": left out if it is in neither truth nor prediction,
            0 if it is only predicted. "target": left out whenever the truth lacks it. "zero", "one": counted as 0 or 1
            if it is in neither. "nan": not a number then.
    """
    values = iou(confusion)
    if absent == "target":
        values = values[confusion.sum(1) > 0]
    if absent in ("zero", "one"):
        values = values.nan_to_num(float(absent == "one"))
    return float(values.mean() if absent == "nan" else values.nanmean())


def frequency_weighted_iou(confusion: Int64[Tensor, "k k"]) -> float:
    """Mean of `iou` weighted by each class's pixels in the truth, in [0, 1]; NaN if no pixel was counted.

    Source: the formula of arXiv 1411.4038 version 2; version 1 had it wrong.
    """
    pixels = confusion.sum(1)
    return float((iou(confusion).nan_to_num(0.0) * pixels).sum() / pixels.sum())


def scores(confusion: Int64[Tensor, "k k"]) -> dict[str, float]:
    """The paper's four scores by name, fractions in [0, 1]."""
    return {
        "pixel_accuracy": pixel_accuracy(confusion),
        "mean_accuracy": mean_accuracy(confusion),
        "mean_iou": mean_iou(confusion),
        "frequency_weighted_iou": frequency_weighted_iou(confusion),
    }


def conventions(confusion: Int64[Tensor, "k k"], per_image: Int64[Tensor, "n 3 k"] | None = None) -> dict[str, float]:
    """The "mIoU" that other programs would print for the same masks, by the names in `CONVENTIONS`.

    Args:
        confusion: Pixel counts of the whole dataset.
        per_image: `class_counts` of every image; without them the number that is a mean over images is left out.
    """
    paper = mean_iou(confusion)
    values = {
        "paper": paper,
        "pytorch_fcn": paper,
        "paper_sift_flow": mean_iou(confusion, absent="target"),
        "mmsegmentation": paper,
        "torchmetrics_jaccard": paper,
        "detectron2": mean_iou(confusion, absent="target"),
        "smp_macro": mean_iou(confusion, absent="one"),
        "smp_micro": float(iou_of_counts(class_counts(confusion).sum(1, keepdim=True))),
        "torchvision": mean_iou(confusion, absent="nan"),
        "paddleseg": mean_iou(confusion, absent="zero"),
        "segnet": mean_iou(confusion, absent="zero"),
    }
    if per_image is not None:
        values["torchmetrics_mean_iou"] = float(iou_of_counts(per_image).nanmean())
    return values


def class_counts(confusion: Int64[Tensor, "k k"]) -> Int64[Tensor, "3 k"]:
    """What the scores of one image need: pixels hit, pixels in the truth, pixels predicted, of each class."""
    return torch.stack((confusion.diagonal(), confusion.sum(1), confusion.sum(0)))


def iou_of_counts(counts: Int64[Tensor, "*n 3 k"]) -> Float64[Tensor, "*n k"]:
    """`iou` of one or many `class_counts`."""
    hits, target, pred = counts.unbind(-2)
    return hits.double() / (target + pred - hits)


def mean_iou_interval(
    per_image: Int64[Tensor, "n 3 k"], *, confidence: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Where `mean_iou` would lie had other images of the same kind been drawn: a percentile bootstrap over images.

    Args:
        per_image: `class_counts` of every image.
        confidence: Share of the resampled scores that lie inside.
        samples: Number of resampled datasets.
        seed: Same seed, same interval.

    Returns:
        Lower and upper end, fractions in [0, 1]; NaN if there is no image.
    """
    images = len(per_image)
    if images == 0:
        return float("nan"), float("nan")
    generator = torch.Generator().manual_seed(seed)
    counts = per_image.cpu().double().flatten(1)  # whole numbers below 2^53 stay exact
    draws = (torch.randint(images, (images,), generator=generator) for _ in range(samples))
    totals = torch.stack([draw.bincount(minlength=images).double() @ counts for draw in draws])
    totals = totals.long().reshape(samples, *per_image.shape[1:])
    values = iou_of_counts(totals).nanmean(-1)
    low, high = values.nanquantile(torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2]).double())
    return float(low), float(high)


def _refuse_illegal(target: Tensor, pred: Tensor, num_classes: int, ignore_index: int) -> None:
    refuse_illegal_truth(target, num_classes, ignore_index)
    pred = pred.long()
    strange = pred[(target.long() != ignore_index) & ((pred < 0) | (pred >= num_classes))]
    raise FullyconvError(
        "SEG-E002",
        f"the prediction holds values that are no class: {listed(strange)}; expected 0 to {num_classes - 1}"
        + (f"; only pixels whose truth is {ignore_index} may hold {ignore_index}" if ignore_index in strange else ""),
    )


def _size(mask: Tensor) -> str:
    return "x".join(str(side) for side in mask.shape)
