"""Losses on full-size logits, sampling of pixels, class weights."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.segmentation import dice_score

from fullyconv import losses

LOSSES = [losses.cross_entropy, losses.focal, losses.dice]


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    target = torch.randint(0, 4, (2, 5, 6))
    return torch.randn(2, 4, 5, 6, dtype=dtype), target.masked_fill(torch.rand(target.shape) < 0.3, 255)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0.5, 2.0, 0.0])])
def test_cross_entropy_equals_torch(weight: Tensor | None, label_smoothing: float) -> None:
    logits, target = example()
    for reduction in ("mean", "sum"):
        options = {"weight": weight, "label_smoothing": label_smoothing, "reduction": reduction}
        expected = F.cross_entropy(logits, target, ignore_index=255, **options)
        torch.testing.assert_close(losses.cross_entropy(logits, target, **options), expected)


def test_batch_reduction_divides_by_images_as_caffe_does() -> None:
    logits, target = torch.zeros(2, 4, 5, 6), torch.zeros(2, 5, 6, dtype=torch.int64)
    target[0] = 255
    loss = losses.cross_entropy(logits, target, reduction="batch")
    assert loss.item() == pytest.approx(30 * math.log(4) / 2, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_pass_gradcheck(loss: Callable[..., Tensor]) -> None:
    logits, target = example(torch.float64)
    logits.requires_grad_()
    weight = torch.tensor([1.0, 0.5, 2.0, 0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, weight=weight), logits)


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_pixels_have_no_gradient(loss: Callable[..., Tensor]) -> None:
    logits, target = example()
    logits.requires_grad_()
    loss(logits, target).backward()
    assert logits.grad is not None
    of_pixels = logits.grad.abs().sum(1)
    assert (of_pixels[target == 255] == 0).all()
    assert (of_pixels[target != 255] > 0).all()


@pytest.mark.parametrize("weight", [None, torch.ones(4), torch.zeros(4)])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_target_that_is_all_ignored_costs_nothing(loss: Callable[..., Tensor], weight: Tensor | None) -> None:
    logits = torch.randn(2, 4, 5, 6, requires_grad=True)
    value = loss(logits, torch.full((2, 5, 6), 255), weight=weight)
    value.backward()
    assert logits.grad is not None
    assert value == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_compute_in_float32_under_autocast(loss: Callable[..., Tensor]) -> None:
    logits, target = example()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits.bfloat16(), target.to(torch.uint8))
    torch.testing.assert_close(value, loss(logits.bfloat16().float(), target))


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, target = example()
    weight = torch.tensor([1.0, 0.5, 2.0, 0.3])
    expected = losses.cross_entropy(logits, target, weight=weight)
    torch.testing.assert_close(losses.focal(logits, target, gamma=0.0, weight=weight), expected)


def test_focal_of_one_pixel_by_hand() -> None:
    logits = torch.tensor([0.8, 0.2]).log().view(1, 2, 1, 1)
    easy, hard = (losses.focal(logits, torch.full((1, 1, 1), target)).item() for target in (0, 1))
    assert easy == pytest.approx(0.2**2 * -math.log(0.8), rel=1e-5)
    assert hard == pytest.approx(0.8**2 * -math.log(0.2), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_of_a_certain_pixel_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).requires_grad_()
    losses.focal(logits, torch.zeros(1, 1, 1, dtype=torch.int64), gamma=gamma).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_dice_of_hard_predictions_equals_torchmetrics() -> None:
    target, pred = torch.randint(0, 4, (2, 16, 16)), torch.randint(0, 4, (2, 16, 16))
    logits = 1000.0 * F.one_hot(pred, 4).movedim(-1, 1)
    # torchmetrics averages over images; side by side, the two images are one.
    wide_pred, wide_target = (torch.cat([*masks], dim=1)[None] for masks in (pred, target))
    score = dice_score(wide_pred, wide_target, 4, average="macro", input_format="index")
    torch.testing.assert_close(losses.dice(logits, target, smooth=0.0), 1 - score.squeeze())


def test_dice_averages_over_the_classes_in_the_target() -> None:
    logits, target = torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 0], [0, 1]]])
    # Every p is 1/4, so sum(p) is 1; overlap (2 * 3/4) / (1 + 3) for class 0, (2 * 1/4) / (1 + 1) for class 1.
    assert losses.dice(logits, target, smooth=0.0).item() == pytest.approx(1 - (0.375 + 0.25) / 2)
    weight = torch.tensor([3.0, 1.0, 9.0, 9.0])
    assert losses.dice(logits, target, smooth=0.0, weight=weight).item() == pytest.approx(1 - (3 * 0.375 + 0.25) / 4)
    assert losses.dice(logits, target).item() == pytest.approx(1 - (2.5 / 5 + 1.5 / 3) / 2)


@pytest.mark.parametrize("keep", [0.25, 0.5])
def test_sampling_by_ignoring_is_a_bernoulli_mask_on_the_loss(keep: float) -> None:
    logits, target = example(torch.float64)
    ignoring, masking = (logits.clone().requires_grad_() for _ in range(2))
    kept = losses.sampled(target, keep, torch.Generator().manual_seed(3))
    losses.cross_entropy(ignoring, kept, reduction="sum").backward()
    mask = torch.rand(target.shape, generator=torch.Generator().manual_seed(3)) < keep
    (mask * F.cross_entropy(masking, target, ignore_index=255, reduction="none")).sum().backward()
    assert ignoring.grad is not None
    assert masking.grad is not None
    assert ignoring.grad.any()
    assert torch.equal(ignoring.grad, masking.grad)


def test_sampled_losses_are_the_full_loss_in_expectation() -> None:
    logits, target = example(torch.float64)
    generator, keep, draws = torch.Generator().manual_seed(0), 0.25, 10_000
    pixels = F.cross_entropy(logits, target, ignore_index=255, reduction="none")
    kept = losses.sampled(target.repeat(draws, 1, 1), keep, generator).view(draws, *target.shape)
    totals = torch.where(kept != 255, pixels, 0).sum((1, 2, 3)) / keep
    three_sigma = 3 * totals.std().item() / math.sqrt(draws)
    assert totals.mean().item() == pytest.approx(pixels.sum().item(), abs=three_sigma)
    assert three_sigma < 0.01 * pixels.sum().item()


def test_sampling_keeps_what_was_ignored_and_all_pixels_at_one() -> None:
    _, target = example()
    assert (losses.sampled(target, 0.5, torch.Generator())[target == 255] == 255).all()
    assert torch.equal(losses.sampled(target, 1.0, torch.Generator()), target)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5])
def test_sampling_with_what_is_no_probability_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match="keep must be a probability"):
        losses.sampled(torch.zeros(1, 2, 2, dtype=torch.int64), keep, torch.Generator())


def test_log_weights_are_those_of_enet() -> None:
    weights = losses.class_weights(torch.tensor([90, 10]), "log")
    raw = [1 / math.log(1.02 + 0.9), 1 / math.log(1.02 + 0.1)]
    assert weights.tolist() == pytest.approx([2 * value / sum(raw) for value in raw])


def test_median_weights_count_only_images_that_hold_the_class() -> None:
    # Class 0 fills 60 of 100 and 50 of 100 pixels, class 1 only 40 of the first, class 2 only 50 of the second image.
    weights = losses.class_weights(torch.tensor([[60, 40, 0], [50, 0, 50]]), "median")
    assert weights.tolist() == pytest.approx([0.5 / 0.55, 0.5 / 0.4, 0.5 / 0.5])
    whole = losses.class_weights(torch.tensor([110, 40, 50]), "median")
    assert whole.tolist() == pytest.approx([50 / 110, 50 / 40, 1])


def test_inverse_weights_give_every_class_the_same_mass() -> None:
    counts = torch.tensor([70, 20, 10])
    weights = losses.class_weights(counts, "inverse")
    assert weights.mean().item() == pytest.approx(1)
    assert (weights * counts).tolist() == pytest.approx([(weights[0] * 70).item()] * 3)


@pytest.mark.parametrize("scheme", ["none", "log", "median", "inverse"])
def test_a_class_without_pixels_weighs_one_and_changes_no_other(scheme: losses.WeightScheme) -> None:
    weights = losses.class_weights(torch.tensor([70, 0, 20, 10]), scheme)
    assert weights[1] == 1
    assert torch.equal(weights[[0, 2, 3]], losses.class_weights(torch.tensor([70, 20, 10]), scheme))


def test_weights_without_any_pixel_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one labelled pixel"):
        losses.class_weights(torch.zeros(3, dtype=torch.int64), "log")
