"""Appendix A: coarse labels, and what they can score at best."""

import math
from pathlib import Path

import pytest
import torch

from fullyconv.experiments.scenes import write_digits
from fullyconv.experiments.upper_bounds import COUNTED, PAPER, SPARED, coarsened, grown, upper_bounds
from fullyconv.experiments.workbench import Settings, Workbench
from fullyconv.metrics import confusion_matrix, mean_iou


def blobs(height: int = 96, width: int = 80) -> torch.Tensor:
    """Three classes in patches of all sizes."""
    noise = torch.rand(1, 3, height // 8, width // 8) + torch.rand(1, 3, 1, 1)
    smooth = torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic")
    return smooth.argmax(1)[0].to(torch.uint8)


def test_the_bound_falls_as_labels_become_coarse() -> None:
    mask = blobs()
    bounds = [mean_iou(confusion_matrix(mask, coarsened(mask, factor, 3), 3)) for factor in (1, 2, 4, 8, 16, 32)]
    assert bounds[0] == 1
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < 0.9


@pytest.mark.parametrize("factor", [2, 3, 7, 64])
def test_a_straight_edge_between_blocks_stays_where_it_is(factor: int) -> None:
    mask = torch.zeros(10, 4 * factor, dtype=torch.uint8)
    mask[:, 2 * factor :] = 5
    assert torch.equal(coarsened(mask, factor, 6), mask)


def test_coarse_labels_turn_with_the_mask() -> None:
    mask = blobs(64, 96)
    for dims in ([0], [1], [0, 1]):
        assert torch.equal(coarsened(mask.flip(dims), 16, 3), coarsened(mask, 16, 3).flip(dims))


def test_ignored_pixels_are_no_class() -> None:
    mask = torch.full((8, 8), 255, dtype=torch.uint8)
    mask[0, 0] = 2
    assert (coarsened(mask, 8, 3) == 2).all()


def test_classes_grow_over_ignored_pixels_until_they_meet() -> None:
    mask = torch.tensor([[1, 255, 255, 255, 2], [255, 255, 255, 255, 2]], dtype=torch.uint8)
    assert grown(mask).tolist() == [[1, 1, 1, 2, 2], [1, 1, 2, 2, 2]]
    empty = torch.full((3, 4), 255, dtype=torch.uint8)
    assert torch.equal(grown(empty), empty)


def bench(folder: Path, data: str | None, minutes: float) -> Workbench:
    return Workbench(Settings("upper-bounds", data, (), minutes, "resnet10t", "none", 0), folder)


def test_every_factor_has_a_bound_beside_the_papers(tmp_path: Path) -> None:
    mine = bench(tmp_path / "out", None, 1e-6)
    mine.whole = write_digits(tmp_path, seed=0, train=1, val=2)
    found = upper_bounds(mine)
    assert [(row.label, row.paper) for row in found.rows] == [
        (f"1/{factor}", told) for factor, told in PAPER.items() for _ in (SPARED, COUNTED)
    ]
    assert all(math.isfinite(row.ours) for row in found.rows)
    assert found.conditions["images"] == "1 of val"  # no time for a second
    assert found.conclusion.startswith("On 1 image, coarse labels alone cost ")


def test_bounds_of_pascal_are_the_papers_at_fine_strides(data_root: Path, tmp_path: Path) -> None:
    pascal = data_root / "voc2012_subset"
    if not pascal.is_dir():
        pytest.skip(f"{pascal} does not exist")
    found = upper_bounds(bench(tmp_path, str(pascal), 60.0))
    ours = {row.label: row.ours for row in found.rows if row.measure == COUNTED}
    # Of 50 images; at coarser strides the score depends on which small objects happen to be in them.
    for factor in (16, 8, 4):
        assert ours[f"1/{factor}"] == pytest.approx(PAPER[factor], abs=0.6)
