"""Appendix A: the mean IU of the truth itself, made coarse and brought up again."""

import statistics
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from fullyconv import images
from fullyconv.experiments.findings import Findings, Row
from fullyconv.experiments.workbench import Workbench
from fullyconv.geometry import Grid
from fullyconv.kernels import upsample_argmax
from fullyconv.labels import LabelSet
from fullyconv.metrics import confusion_matrix, mean_iou

# Mean IU in percent by downsampling factor, on a subset of PASCAL VOC 2011 val.
PAPER = {128: 50.9, 64: 73.3, 32: 86.1, 16: 92.8, 8: 96.4, 4: 98.5}
SPARED, COUNTED = "mean IU, borders ignored", "mean IU, borders counted"


def upper_bounds(bench: Workbench) -> Findings:
    """The bound of each factor, with ignored pixels left out of the score and with classes grown over them.

    The paper does not say how it resamples, nor on which labels. PASCAL's ignored borders lie where coarse labels are
    wrong, so that the finer factors tell the two apart.
    """
    measured = bench.part("bounds", _measured, bench)
    rows = [
        Row(f"1/{factor}", measure, 100 * measured[measure][str(factor)], "%", paper)
        for factor, paper in PAPER.items()
        for measure in (SPARED, COUNTED)
    ]
    conditions = {
        "images": f"{measured['images']} of val",
        "method": "block averages of each class, bilinear, the greatest wins; the paper does not tell its own",
    }
    return Findings(tuple(rows), conclusion(rows, measured["images"]), conditions)


def coarsened(
    mask: Integer[Tensor, "height width"], factor: int, num_classes: int, *, ignore_index: int = 255
) -> Shaped[Tensor, "height width"]:
    """The best label map that a net of stride `factor` could give: each class's share of every block, brought up.

    Args:
        mask: Class indices or `ignore_index`, which is no class's share.
        factor: Side of the blocks in pixels.
        num_classes: Number of classes.
        ignore_index: The mask value of pixels that do not count.

    Source: Long, Shelhamer and Darrell 2015, appendix A.
    """
    cells = _shares(mask, factor, num_classes, ignore_index)
    size = (mask.shape[0], mask.shape[1])
    return upsample_argmax(cells, size, grid=Grid().convolve(factor, factor))[0]


def _shares(mask: Tensor, factor: int, num_classes: int, ignore_index: int) -> Float[Tensor, "1 k h w"]:
    """How much of each block each class fills, in [0, 1]; blocks that leave the image are filled in part."""
    rows, columns = (torch.arange(size) // factor for size in mask.shape)
    height, width = int(rows[-1]) + 1, int(columns[-1]) + 1
    counted = mask != ignore_index
    keys = mask.long() * (height * width) + rows[:, None] * width + columns
    pixels = torch.bincount(keys[counted], minlength=num_classes * height * width)
    return pixels.view(1, num_classes, height, width).float() / factor**2


def grown(mask: Integer[Tensor, "height width"], *, ignore_index: int = 255) -> Integer[Tensor, "height width"]:
    """The mask in which classes have grown over the ignored pixels until they met; unchanged if all are ignored."""
    while (ignored := mask == ignore_index).any() and not ignored.all():
        wide = F.pad(mask, (1, 1, 1, 1), value=ignore_index)
        for neighbour in (wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]):
            mask = torch.where(mask == ignore_index, neighbour, mask)
    return mask


def conclusion(rows: list[Row], count: int) -> str:
    """What a stride alone costs, and which reading of the borders is nearer to the paper's row."""
    ours = {(row.label, row.measure): row.ours for row in rows}
    told = []
    for factor in (32, 8):
        low, high = sorted(ours[f"1/{factor}", measure] for measure in (SPARED, COUNTED))
        told.append(f"{100 - high:.1f} to {100 - low:.1f} points at 1/{factor} (paper {100 - PAPER[factor]:.1f})")
    apart = {
        measure: statistics.fmean(abs(row.ours - (row.paper or 0)) for row in rows if row.measure == measure)
        for measure in (SPARED, COUNTED)
    }
    nearer = min(apart, key=lambda measure: apart[measure])
    return (
        f"On {count} {'image' if count == 1 else 'images'}, coarse labels alone cost {' and '.join(told)} of mean IU; "
        f"with {nearer.partition(', ')[2]} we are nearer to the paper's row, {apart[nearer]:.1f} points off on average."
    )


def _measured(bench: Workbench) -> dict[str, Any]:
    """Both scores of each factor, in [0, 1], on as many images of val as the time allows."""
    labels = bench.dataset.labels
    empty = torch.zeros(len(labels), len(labels), dtype=torch.int64)
    totals = {measure: dict.fromkeys(PAPER, empty) for measure in (SPARED, COUNTED)}
    files = [pair.mask for pair in bench.dataset.pairs("val") if pair.mask is not None]
    done = 0
    for file in files:
        mask = images.read_mask(file, labels)
        for measure, target in ((SPARED, mask), (COUNTED, grown(mask, ignore_index=labels.ignore_index))):
            for factor in PAPER:
                totals[measure][factor] = totals[measure][factor] + _confusion(target, factor, labels)
        done += 1
        if bench.seconds_left() == 0:
            break
    bench.say(f"{done} of {len(files)} label maps made coarse, {len(PAPER)} times each")
    scores = {measure: {str(factor): mean_iou(total) for factor, total in by.items()} for measure, by in totals.items()}
    return {"images": done, **scores}


def _confusion(target: Tensor, factor: int, labels: LabelSet) -> Tensor:
    pred = coarsened(target, factor, len(labels), ignore_index=labels.ignore_index)
    return confusion_matrix(target, pred, len(labels), labels.ignore_index)
