"""The kernels: upsampled scores, their argmax and their cross-entropy, fast and plain."""

import importlib
import inspect
import math
import os
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from fullyconv import kernels, metrics
from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid
from fullyconv.kernels import cpu, graph, loops, reference, taps

SIZES = [
    ((6, 8), (48, 64)),
    ((7, 5), (50, 33)),
    ((3, 19), (24, 150)),  # more than one block of lanes, the last one partly filled
    ((1, 1), (9, 11)),
    ((1, 6), (1, 48)),
    ((5, 7), (3, 2)),  # smaller than the scores
    ((4, 4), (4, 4)),
]
GRIDS = [
    None,
    Grid(Fraction(8), Fraction(0)),
    Grid(Fraction(8), Fraction(7, 2)),
    Grid(Fraction(8), Fraction(-5)),
    Grid(Fraction(4), Fraction(20)),
    Grid(Fraction(3, 2), Fraction(1, 3)),
]


def smooth_scores(batch: int, classes: int, height: int, width: int) -> Float[Tensor, "n k h w"]:
    blobs = F.interpolate(3 * torch.randn(batch, classes, 2, 2), size=(height, width), mode="bicubic")
    return blobs + 0.15 * torch.randn(batch, classes, height, width)


def random_target(batch: int, classes: int, size: tuple[int, int]) -> Tensor:
    target = torch.randint(0, classes, (batch, *size))
    return target.masked_fill(torch.rand(target.shape) < 0.2, 255)


def loss_by(implementation: object, scores: Tensor, target: Tensor, **options: object) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_implementation", lambda _: implementation)
        return kernels.upsample_cross_entropy(scores, target, **options)  # type: ignore[arg-type]


def loss_and_gradient(
    implementation: object, scores: Tensor, target: Tensor, **options: object
) -> tuple[Tensor, Tensor]:
    scores = scores.detach().clone().requires_grad_()
    loss = loss_by(implementation, scores, target, **options)
    loss.backward()
    assert scores.grad is not None
    return loss.detach(), scores.grad


def assert_same_loss(scores: Tensor, target: Tensor, **options: object) -> None:
    """The fast loss and gradient are those of the reference in float64, to float32 accuracy."""
    exact = {name: value.double() if isinstance(value, Tensor) else value for name, value in options.items()}
    loss, gradient = loss_and_gradient(cpu, scores, target, **options)
    true_loss, true_gradient = loss_and_gradient(reference, scores.double(), target, **exact)
    torch.testing.assert_close(loss.double(), true_loss, rtol=1e-6, atol=1e-7)
    error = (gradient - true_gradient).abs().max() / true_gradient.abs().max().clamp(min=1e-12)
    assert error < 2e-6


@pytest.mark.parametrize(("cells", "size"), SIZES)
def test_upsample_equals_interpolate_without_corner_alignment(cells: tuple[int, int], size: tuple[int, int]) -> None:
    scores = torch.randn(2, 3, *cells, dtype=torch.float64)
    expected = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(kernels.upsample(scores, size), expected)


def test_upsample_on_a_grid_reads_where_the_grid_says() -> None:
    # Cells at pixels -1, 3, 7: pixel 0 lies a quarter of the way from the first to the second.
    row = torch.tensor([0.0, 4.0, 12.0]).expand(1, 1, 3, 3)
    upsampled = kernels.upsample(row, (1, 9), grid=Grid(Fraction(4), Fraction(-1)))
    assert upsampled.flatten().tolist() == [1, 2, 3, 4, 6, 8, 10, 12, 12]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("cells", "size"), SIZES)
def test_graphs_upsample_as_the_reference(cells: tuple[int, int], size: tuple[int, int], grid: Grid | None) -> None:
    scores = torch.randn(2, 7, *cells)
    expected = reference.upsample(scores, size, grid=grid)
    torch.testing.assert_close(graph.upsample(scores, size, grid=grid), expected)


def test_upsample_does_not_read_neighbours_of_weight_zero() -> None:
    scores = torch.tensor([0.0, torch.inf, 1.0]).expand(1, 1, 3, 3)
    upsampled = kernels.upsample(scores, (1, 9), grid=Grid(Fraction(4), Fraction(0)))
    assert upsampled.flatten().tolist() == [0.0, *[torch.inf] * 7, 1.0]


def test_upsample_keeps_a_class_that_is_ruled_out_ruled_out() -> None:
    scores = torch.full((1, 1, 3, 4), -torch.inf)
    assert (kernels.upsample(scores, (24, 31)) == -torch.inf).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_upsample_passes_gradcheck(grid: Grid | None) -> None:
    scores = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: kernels.upsample(x, (7, 5), grid=grid), scores)
    assert torch.autograd.gradgradcheck(lambda x: kernels.upsample(x, (7, 5), grid=grid), scores)


def test_upsample_works_in_float32_under_autocast() -> None:
    scores = torch.randn(1, 2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        upsampled = kernels.upsample(scores.bfloat16(), (9, 9))
    torch.testing.assert_close(upsampled, kernels.upsample(scores.bfloat16().float(), (9, 9)))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("cells", "size"), SIZES)
def test_argmax_equals_reference(cells: tuple[int, int], size: tuple[int, int], grid: Grid | None) -> None:
    for scores in (torch.randn(2, 7, *cells), smooth_scores(2, 7, *cells), smooth_scores(1, 1, *cells)):
        expected = reference.upsample_argmax(scores, size, grid=grid)
        assert torch.equal(cpu.upsample_argmax(scores, size, grid=grid), expected)


def test_argmax_of_a_large_map_differs_at_rounding_ties_only() -> None:
    scores = smooth_scores(1, 150, 40, 50)
    mask = kernels.upsample_argmax(scores, (320, 400))
    logits = kernels.upsample(scores, (320, 400))
    lost = logits.amax(1) - logits.gather(1, mask.long()[:, None])[:, 0]
    assert lost.max() < 1e-5


def test_argmax_gives_ties_to_the_lowest_class() -> None:
    scores = torch.randint(-2, 3, (2, 9, 6, 8)).float()  # strides of 8: every weight is exact, so ties are exact
    assert torch.equal(cpu.upsample_argmax(scores, (48, 64)), reference.upsample_argmax(scores, (48, 64)))
    assert not cpu.upsample_argmax(torch.zeros(1, 5, 3, 3), (24, 24)).any()


@pytest.mark.parametrize("strange", [torch.inf, -torch.inf, torch.nan])
def test_argmax_of_infinities_and_nan_equals_reference(strange: float) -> None:
    scores = torch.randn(2, 5, 9, 7)
    scores[torch.rand(scores.shape) < 0.05] = strange
    for grid in (None, Grid(Fraction(8), Fraction(0))):
        expected = reference.upsample_argmax(scores, (70, 55), grid=grid)
        assert torch.equal(cpu.upsample_argmax(scores, (70, 55), grid=grid), expected)


def test_argmax_of_more_than_256_classes_is_uint16() -> None:
    scores = smooth_scores(1, 300, 3, 4)
    mask = kernels.upsample_argmax(scores, (24, 32))
    assert mask.dtype == torch.uint16
    assert mask.numpy().dtype == np.uint16
    assert torch.equal(mask.int(), reference.upsample_argmax(scores, (24, 32)).int())
    assert kernels.upsample_argmax(scores[:, :256], (24, 32)).dtype == torch.uint8


def test_argmax_works_through_bands_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(2, 3, 5, 6)
    expected = kernels.upsample(scores, (41, 47)).argmax(1).byte()
    monkeypatch.setattr(reference, "BAND_VALUES", 2 * 3 * 47 * 4)
    assert torch.equal(reference.upsample_argmax(scores, (41, 47)), expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("cells", "size"), SIZES)
def test_cross_entropy_equals_reference(cells: tuple[int, int], size: tuple[int, int], grid: Grid | None) -> None:
    for scores in (3 * torch.randn(2, 5, *cells), smooth_scores(2, 5, *cells)):
        assert_same_loss(scores, random_target(2, 5, size), grid=grid)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weight", [None, (1.0, 0.0, 2.5, 0.3)])
def test_cross_entropy_options_equal_reference(
    weight: tuple[float, ...] | None, label_smoothing: float, reduction: str
) -> None:
    scores, target = 2 * torch.randn(2, 4, 5, 7), random_target(2, 4, (37, 71))
    weights = None if weight is None else torch.tensor(weight)
    assert_same_loss(scores, target, weight=weights, label_smoothing=label_smoothing, reduction=reduction)


def test_reference_equals_interpolate_and_cross_entropy() -> None:
    scores, target = torch.randn(2, 4, 5, 7), random_target(2, 4, (37, 71))
    weight = torch.tensor([1.0, 0.5, 2.5, 0.3])
    logits = F.interpolate(scores, size=(37, 71), mode="bilinear")
    expected = F.cross_entropy(logits, target, weight, ignore_index=255, label_smoothing=0.1)
    loss = loss_by(reference, scores, target, weight=weight, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


def test_cross_entropy_passes_gradcheck() -> None:
    scores = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    target = random_target(1, 3, (9, 13))
    assert torch.autograd.gradcheck(lambda x: kernels.upsample_cross_entropy(x, target, label_smoothing=0.1), scores)


def hardest_by_sorting(scores: Tensor, target: Tensor, share: float, ignore_index: int, **options: Any) -> Tensor:
    """The summed loss of the hardest pixels, and their summed weight, image by image."""
    sums = torch.zeros(2, dtype=torch.float64)
    weight = options.get("weight") if options.get("weight") is not None else torch.ones(scores.shape[1])
    for score, mask in zip(scores.split(1), target.split(1), strict=True):
        logits = kernels.upsample(score, (mask.shape[1], mask.shape[2]))
        losses = F.cross_entropy(logits, mask, reduction="none", ignore_index=ignore_index, **options).flatten()
        counted = (mask != ignore_index).flatten()
        last = losses[counted].sort(descending=True).values[math.ceil(share * int(counted.sum())) - 1]
        hard = counted & (losses >= last * (1 - 1e-5))  # what the border repeats is as hard
        sums += torch.stack((losses[hard].sum(), weight[mask.flatten()[hard]].sum()))
    return sums


@pytest.mark.parametrize("implementation", [cpu, reference])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": torch.tensor([1.0, 0.2, 2.5, 0.3])}])
def test_cross_entropy_of_the_hardest_pixels_is_that_of_the_highest_losses(
    implementation: object, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FULLYCONV_REFERENCE", str(int(implementation is reference)))
    scores, target = 2 * torch.randn(2, 4, 5, 7), random_target(2, 4, (37, 71))
    target[1, 4:] = 255  # the second image has fewer pixels that count, and fewer of them are hard
    total, mass = hardest_by_sorting(scores, target, 0.3, 255, **options)
    loss = kernels.upsample_cross_entropy(scores, target, hardest=0.3, reduction="sum", **options)
    torch.testing.assert_close(loss.double(), total.double(), rtol=1e-5, atol=0)
    mean = kernels.upsample_cross_entropy(scores, target, hardest=0.3, **options)
    torch.testing.assert_close(mean.double(), (total / mass).double(), rtol=1e-5, atol=0)


def test_cross_entropy_of_the_hardest_pixels_passes_gradcheck() -> None:
    scores = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    target = random_target(2, 3, (9, 13))
    assert torch.autograd.gradcheck(lambda x: kernels.upsample_cross_entropy(x, target, hardest=0.4), scores)
    fast = loss_and_gradient(cpu, scores.float(), target, hardest=0.4)
    slow = loss_and_gradient(reference, scores, target, hardest=0.4)
    torch.testing.assert_close(fast[0].double(), slow[0])
    torch.testing.assert_close(fast[1].double(), slow[1], rtol=1e-4, atol=1e-6)


def test_cross_entropy_counts_all_pixels_that_are_as_hard_as_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, target = torch.zeros(2, 4, 3, 5), random_target(2, 4, (24, 40))
    for forced in ("0", "1"):
        monkeypatch.setenv("FULLYCONV_REFERENCE", forced)
        loss = kernels.upsample_cross_entropy(scores, target, hardest=0.1, reduction="sum")
        assert loss.item() == pytest.approx(math.log(4) * int((target != 255).sum()), rel=1e-5)
        nothing = torch.full_like(target, 255)
        assert kernels.upsample_cross_entropy(scores, nothing, hardest=0.1) == 0
        scores[0, 1, 1, 1] = torch.nan
        assert kernels.upsample_cross_entropy(scores, target, hardest=0.1).isnan()
        scores[0, 1, 1, 1] = 0


def test_cross_entropy_of_150_classes_equals_reference() -> None:
    assert_same_loss(3 * torch.randn(1, 150, 4, 5), random_target(1, 150, (32, 40)))


def test_cross_entropy_survives_scores_far_apart() -> None:
    scores = 300 * torch.randn(1, 5, 4, 6)
    assert_same_loss(scores, random_target(1, 5, (32, 48)))


def test_cross_entropy_of_a_ruled_out_class_is_finite_unless_it_is_the_target() -> None:
    scores, target = torch.randn(1, 4, 3, 5), torch.randint(0, 3, (1, 24, 40))
    scores[:, 3] = -torch.inf
    loss, gradient = loss_and_gradient(cpu, scores, target)
    torch.testing.assert_close(loss, loss_by(reference, scores[:, :3], target))
    assert gradient[:, :3].isfinite().all()
    assert (gradient[:, 3].abs() < 1e-30).all()
    target[0, 5, 5] = 3
    assert kernels.upsample_cross_entropy(scores, target) == torch.inf


@pytest.mark.parametrize("strange", [torch.inf, torch.nan])
def test_cross_entropy_of_impossible_scores_is_nan(strange: float) -> None:
    scores, target = torch.randn(1, 4, 3, 5), torch.zeros(1, 24, 40, dtype=torch.int64)
    scores[0, 1, 1, 1] = strange
    assert kernels.upsample_cross_entropy(scores, target).isnan()
    assert loss_by(reference, scores, target).isnan()


@pytest.mark.parametrize("implementation", [cpu, reference])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_of_an_ignored_target_is_zero(implementation: object, reduction: str) -> None:
    target = torch.full((2, 24, 40), 255)
    loss, gradient = loss_and_gradient(implementation, torch.randn(2, 4, 3, 5), target, reduction=reduction)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_cross_entropy_takes_targets_of_any_integer_type(dtype: torch.dtype) -> None:
    scores, target = torch.randn(2, 4, 3, 5), random_target(2, 4, (24, 40))
    loss = kernels.upsample_cross_entropy(scores, target.to(dtype))
    torch.testing.assert_close(loss, loss_by(reference, scores, target))


def test_cross_entropy_may_ignore_a_class_or_a_negative_value() -> None:
    scores, target = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 24, 40))
    assert_same_loss(scores, target, ignore_index=2)
    assert_same_loss(scores, target.where(target != 1, -100), ignore_index=-100)


def test_cross_entropy_takes_half_precision_and_channels_last() -> None:
    scores, target = torch.randn(2, 4, 3, 5), random_target(2, 4, (24, 40))
    half = scores.bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = kernels.upsample_cross_entropy(half, target)
    loss.backward()
    expected, gradient = loss_and_gradient(reference, scores.bfloat16().float(), target)
    assert half.grad is not None
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(half.grad.float(), gradient, rtol=1e-2, atol=1e-6)


def test_cross_entropy_scales_its_gradient_with_what_follows() -> None:
    scores, target = torch.randn(1, 4, 3, 5), random_target(1, 4, (24, 40))
    _, gradient = loss_and_gradient(cpu, scores, target)
    scores.requires_grad_()
    (3 * kernels.upsample_cross_entropy(scores, target) + 1).backward()
    torch.testing.assert_close(scores.grad, 3 * gradient)


def test_cross_entropy_is_the_same_without_a_gradient() -> None:
    scores, target = torch.randn(1, 4, 3, 5, requires_grad=True), random_target(1, 4, (24, 40))
    loss = kernels.upsample_cross_entropy(scores, target)
    with torch.inference_mode():
        assert torch.equal(kernels.upsample_cross_entropy(scores, target), loss)


def test_results_have_the_same_bits_for_any_number_of_threads() -> None:
    scores, target = torch.randn(3, 11, 9, 12), random_target(3, 11, (72, 96))
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append((*loss_and_gradient(cpu, scores, target), cpu.upsample_argmax(scores, (72, 96))))
    torch.set_num_threads(1)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_kernels_may_be_called_from_several_threads_at_once() -> None:
    scores, target = torch.randn(1, 5, 9, 12), random_target(1, 5, (72, 96))
    expected = kernels.upsample_cross_entropy(scores, target)
    torch.set_num_threads(2)
    with ThreadPoolExecutor(4) as pool:
        losses = list(pool.map(lambda _: kernels.upsample_cross_entropy(scores, target), range(16)))
    torch.set_num_threads(1)
    assert all(torch.equal(loss, expected) for loss in losses)


@pytest.mark.parametrize("implementation", [cpu, reference])
def test_a_target_beyond_the_classes_is_refused(implementation: object) -> None:
    target = torch.zeros(1, 24, 40, dtype=torch.int64)
    target[0, 3, :7] = 12
    with pytest.raises(FullyconvError, match=r"SEG-T030.*12 \(7 pixels\)"):
        loss_and_gradient(implementation, torch.randn(1, 4, 3, 5), target)
    with pytest.raises(FullyconvError, match=r"SEG-T030.*12 \(7 pixels\)"):
        kernels.upsample_cross_entropy(torch.randn(1, 4, 3, 5), target, hardest=0.5)


def test_impossible_arguments_are_refused() -> None:
    scores, target = torch.randn(2, 4, 3, 5), torch.zeros(2, 24, 40, dtype=torch.int64)
    refusals = (ValueError, TypeCheckError)  # the tests' own shape checks may come first
    with pytest.raises(refusals):
        kernels.upsample_cross_entropy(scores, target[:1])
    with pytest.raises(refusals):
        kernels.upsample_cross_entropy(scores, target, weight=torch.ones(3))
    with pytest.raises(refusals):
        kernels.upsample_cross_entropy(scores, target, reduction="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="label_smoothing"):
        kernels.upsample_cross_entropy(scores, target, label_smoothing=1.5)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="hardest"):
            kernels.upsample_cross_entropy(scores, target, hardest=share)
    with pytest.raises(ValueError, match="at least 1x1"):
        kernels.upsample(scores, (0, 3))
    with pytest.raises(ValueError, match="empty axis"):
        kernels.upsample(scores[:, :, :0], (3, 3))
    with pytest.raises(ValueError, match="65536"):
        kernels.upsample_argmax(torch.zeros(1, 65537, 1, 1), (1, 1))


def test_the_environment_forces_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the fast kernel ran")

    scores, target = torch.randn(1, 4, 3, 5), random_target(1, 4, (24, 40))
    monkeypatch.setattr(cpu, "in_parallel", refuse)
    with pytest.raises(AssertionError):
        kernels.upsample_argmax(scores, (24, 40))
    for value in ("", "0"):
        monkeypatch.setenv("FULLYCONV_REFERENCE", value)
        assert not kernels.reference_forced()
    monkeypatch.setenv("FULLYCONV_REFERENCE", "1")
    assert kernels.reference_forced()
    kernels.upsample_argmax(scores, (24, 40))
    kernels.upsample_cross_entropy(scores, target)


def test_exponential_and_logarithm_are_accurate() -> None:
    powers, numbers = np.linspace(-80, 0, 4001, dtype=np.float32), np.geomspace(1, 1e5, 4001, dtype=np.float32)
    exponentials = np.array([loops.exponential(x) for x in powers])
    logarithms = np.array([loops.logarithm(x) for x in numbers])
    np.testing.assert_allclose(exponentials, np.exp(powers.astype(np.float64)), rtol=4e-7)
    np.testing.assert_allclose(logarithms, np.log(numbers.astype(np.float64)), rtol=2e-7, atol=2e-7)
    assert np.isnan(loops.exponential(np.float32(np.nan)))


def test_kernels_run_silently_where_nothing_can_be_cached(tmp_path: Path) -> None:
    shutil.copytree(Path(kernels.__file__).parents[1], tmp_path / "fullyconv", ignore=lambda *_: ["__pycache__"])
    # Files in place of the cache directories: nobody can write into them, not even an administrator.
    (tmp_path / "fullyconv" / "kernels" / "__pycache__").touch()
    (tmp_path / "cache").touch()
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    program = (
        "import torch; from fullyconv import kernels; scores = torch.eye(3)[None, :, None]; "
        "print(int(kernels.upsample_argmax(scores, (1, 24)).sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", program],
        env={**environment, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "24", "")


def test_machine_code_is_made_anew_when_a_source_beside_it_changes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    head = "from fullyconv.kernels.compiling import compiled, compiled_once\n"
    (tmp_path / "outer_loop.py").write_text(
        f"{head}from inner_loop import inner\n@compiled_once\ndef outer(x):\n    return inner(x)\n"
    )
    for factor in (2, 30):  # of unlike length, as Python tells sources of one second apart
        (tmp_path / "inner_loop.py").write_text(f"{head}@compiled\ndef inner(x):\n    return {factor} * x\n")
        for name in ("outer_loop", "inner_loop"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        assert importlib.import_module("outer_loop").outer(10) == 10 * factor
    assert list((tmp_path / "__pycache__").glob("outer_loop.outer-*.nbc"))


def test_no_two_slabs_write_to_one_place(monkeypatch):
    touched = []

    def only_the_last(work, tasks):
        gradients = inspect.getclosurevars(work).nonlocals["results"].gradients
        gradients[1, :, :, -1] = -0.0  # adding even a zero would turn it positive
        work(tasks - 1, tasks)
        touched.append(not np.signbit(gradients[1, :, :, -1]).all())

    monkeypatch.setattr(cpu, "in_parallel", only_the_last)
    scores = torch.randn(1, 3, 4, 5, requires_grad=True)
    loss_and_gradient(cpu, scores, torch.randint(0, 3, (1, 32, 40)))
    assert touched == [False]


def test_no_dense_interpolation_is_kept() -> None:
    kept = weakref.ref(taps.matrix(2, 5, None, "float32"))  # for wide images each is of a hundred megabytes
    assert kept() is None


def matrix_of(target: Tensor, pred: Tensor, classes: int, ignore_index: int = 255) -> list[list[int]]:
    """The confusion matrix pixel by pixel."""
    matrix = [[0] * classes for _ in range(classes)]
    for true, given in zip(target.flatten().tolist(), pred.flatten().tolist(), strict=True):
        if true != ignore_index:
            matrix[true][given] += 1
    return matrix


@pytest.mark.parametrize("grid", [None, Grid(Fraction(8), Fraction(-5))])
@pytest.mark.parametrize(("cells", "size"), SIZES)
def test_confusion_counts_the_label_map(cells: tuple[int, int], size: tuple[int, int], grid: Grid | None) -> None:
    scores, target = smooth_scores(2, 7, *cells), random_target(2, 7, size)
    expected = matrix_of(target, reference.upsample_argmax(scores, size, grid=grid), 7)
    for truth in (target, target.byte(), target.int()):
        assert kernels.upsample_confusion(scores, truth, grid=grid).tolist() == expected


def test_confusion_of_strange_scores_counts_the_label_map(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, target = torch.randn(2, 5, 9, 7), random_target(2, 5, (70, 55))
    scores[torch.rand(scores.shape) < 0.05] = torch.nan
    scores[torch.rand(scores.shape) < 0.05] = -torch.inf
    expected = matrix_of(target, reference.upsample_argmax(scores, (70, 55)), 5)
    for pixels in (1, 600, 1 << 18):  # bands of one slab, of some, of an image
        monkeypatch.setattr(cpu, "BAND_PIXELS", pixels)
        assert kernels.upsample_confusion(scores, target).tolist() == expected
    monkeypatch.setenv("FULLYCONV_REFERENCE", "1")
    assert kernels.upsample_confusion(scores, target).tolist() == expected


def test_confusion_of_many_classes_and_of_none_that_count() -> None:
    scores, target = smooth_scores(1, 300, 3, 4), torch.randint(0, 299, (1, 24, 32))
    expected = matrix_of(target, kernels.upsample_argmax(scores, (24, 32)).int(), 300, 299)
    assert kernels.upsample_confusion(scores, target, ignore_index=299).tolist() == expected
    assert not kernels.upsample_confusion(scores, torch.full_like(target, 999), ignore_index=999).any()


def test_confusion_refuses_what_the_confusion_matrix_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, target = torch.randn(1, 4, 3, 5), torch.zeros(1, 24, 40, dtype=torch.int64)
    target[0, 3, :7], target[0, 9, 9] = 12, -1
    with pytest.raises(FullyconvError, match=r"SEG-E001.*-1 \(1 pixel\), 12 \(7 pixels\)") as plain:
        metrics.confusion_matrix(target, kernels.upsample_argmax(scores, (24, 40)), 4)
    for forced in ("0", "1"):
        monkeypatch.setenv("FULLYCONV_REFERENCE", forced)
        with pytest.raises(FullyconvError) as fused:
            kernels.upsample_confusion(scores, target)
        assert str(fused.value) == str(plain.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("ignore_index", [255, 3, -1])
@pytest.mark.parametrize("length", [1, 64, 65, 200, 1000])
def test_pairs_are_counted_as_in_the_reference(length: int, ignore_index: int, dtype: torch.dtype) -> None:
    noise = torch.randint(0, 8, (2, length))  # of 5 classes
    runs = torch.randint(0, 8, (2, length // 20 + 1)).repeat_interleave(20, 1)[:, :length]
    for target, pred in (noise, runs, (runs[0], noise[1]), torch.cat((runs, noise, runs), 1)):
        counts = cpu.count_pairs(target.to(dtype), pred.to(dtype), 5, ignore_index)
        assert torch.equal(counts, reference.count_pairs(target, pred, 5, ignore_index))


def test_pairs_of_large_masks_are_counted_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    target, pred = torch.randint(0, 5, (2, 3, 70, 90), dtype=torch.uint8)
    monkeypatch.setattr(cpu, "BAND_PIXELS", 1000)
    torch.set_num_threads(3)
    counts = cpu.count_pairs(target, pred, 5, 255)
    torch.set_num_threads(1)
    assert torch.equal(counts, reference.count_pairs(target, pred, 5, 255))
