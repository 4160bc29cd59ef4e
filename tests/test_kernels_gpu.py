"""The GPU's kernels against the reference, in Triton's interpreter on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from fullyconv.geometry import Grid
from fullyconv.kernels import reference
from fullyconv.kernels.criterion import Criterion

gpu = pytest.importorskip("fullyconv.kernels.gpu", reason="Triton comes with torch on Linux alone")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter is numpy, which warns of NaN

SHAPES = [((3, 4), (19, 25), None), ((2, 3), (16, 20), Grid(Fraction(8), Fraction(-3)))]


def random_target(classes: int, size: tuple[int, int]) -> Tensor:
    target = torch.randint(0, classes, (2, *size))
    return target.masked_fill(torch.rand(target.shape) < 0.2, 255)


@pytest.mark.parametrize(("cells", "size", "grid"), SHAPES)
def test_labels_equal_reference(cells: tuple[int, int], size: tuple[int, int], grid: Grid | None) -> None:
    scores, strange = torch.randn(2, 5, *cells), torch.randn(2, 5, *cells)
    for value in (torch.nan, torch.inf, -torch.inf):
        strange[torch.rand(strange.shape) < 0.05] = value
    for given in (scores, strange):
        expected = reference.upsample_argmax(given, size, grid=grid)
        assert torch.equal(gpu.upsample_argmax(given, size, grid=grid), expected)


def test_a_tie_goes_to_the_lowest_class() -> None:
    scores = torch.randint(-2, 3, (1, 5, 2, 3)).float()  # strides of 8: every weight is exact, so ties are exact
    assert torch.equal(gpu.upsample_argmax(scores, (16, 24)), reference.upsample_argmax(scores, (16, 24)))


def test_labels_of_many_classes_have_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(1, 3, 2, 2)
    monkeypatch.setattr(gpu, "label_dtype", lambda classes: torch.uint16)  # 257 classes take seconds
    assert torch.equal(gpu.upsample_argmax(scores, (5, 6)).int(), reference.upsample_argmax(scores, (5, 6)).int())


@pytest.mark.parametrize(("cells", "size", "grid"), SHAPES)
def test_confusion_equals_reference(cells: tuple[int, int], size: tuple[int, int], grid: Grid | None) -> None:
    scores, target = torch.randn(2, 5, *cells), random_target(5, size)
    target[0, 0, :3] = 77
    counts = gpu.upsample_confusion(scores, target, ignore_index=255, grid=grid)
    assert torch.equal(counts, reference.upsample_confusion(scores, target, ignore_index=255, grid=grid))


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        (None, {}),
        (Grid(Fraction(3), Fraction(-1)), {"label_smoothing": 0.1, "weight": torch.tensor([1.0, 0.0, 2.5])}),
    ],
)
def test_loss_and_gradient_equal_reference(grid: Grid | None, options: dict[str, Any]) -> None:
    scores, target = torch.randn(2, 3, 2, 2, requires_grad=True), random_target(3, (5, 7))
    criterion = Criterion(**options)
    assert_same_loss(scores, target, criterion, grid)
    losses = (room.pixel_losses(scores.detach(), target, criterion, grid) for room in (gpu, reference))
    torch.testing.assert_close(*losses)


def test_loss_of_more_classes_and_columns_than_a_program_takes() -> None:
    scores, target = torch.randn(1, 18, 1, 1, requires_grad=True), torch.randint(0, 18, (1, 1, 40))
    assert_same_loss(scores, target, Criterion())


def assert_same_loss(scores: Tensor, target: Tensor, criterion: Criterion, grid: Grid | None = None) -> None:
    found, expected = (room.summed_cross_entropy(scores, target, criterion, grid) for room in (gpu, reference))
    torch.testing.assert_close(found, expected)
    (gradient,), (true,) = (torch.autograd.grad(total, scores) for total, _ in (found, expected))
    torch.testing.assert_close(gradient, true, rtol=1e-4, atol=1e-5)


def test_kernels_run_on_the_device_of_their_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, target = torch.randn(1, 3, 2, 2, requires_grad=True), torch.randint(0, 3, (1, 5, 7))
    entered: list[int] = []

    @contextmanager
    def entering(tensor: Tensor) -> Iterator[None]:
        entered.append(tensor.data_ptr())
        yield

    monkeypatch.setattr(torch.cuda, "device_of", entering)  # of a CPU's tensor it does nothing
    gpu.upsample_argmax(scores, (5, 7))
    gpu.upsample_confusion(scores, target, ignore_index=255)
    gpu.summed_cross_entropy(scores, target, Criterion())[0].backward()
    assert entered == [scores.data_ptr()] * 4


def test_loss_of_strange_scores_and_targets() -> None:
    scores, target = torch.randn(2, 4, 2, 2), random_target(4, (5, 7))
    assert gpu.summed_cross_entropy(scores, torch.full_like(target, 255), Criterion()) == (0, 1)
    assert gpu.summed_cross_entropy(scores, target.masked_fill(target == 1, 77), Criterion())[0].isnan()
    scores[:, 3] = -torch.inf
    without = target.masked_fill(target == 3, 255)
    found, expected = (room.summed_cross_entropy(scores, without, Criterion()) for room in (gpu, reference))
    torch.testing.assert_close(found, expected)
    scores[0, 1, 1, 1] = torch.nan
    assert gpu.summed_cross_entropy(scores, target, Criterion())[0].isnan()
