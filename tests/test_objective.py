"""The loss of a step: Caffe's numbers, however the batch is computed."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fullyconv.kernels import upsample
from fullyconv.models import FCN, create
from fullyconv.training.loop import Objective
from fullyconv.training.recipes import Reduction

REDUCTIONS: tuple[Reduction, ...] = ("mean", "image", "sum")


@pytest.fixture
def model() -> FCN:
    network = create("fcn16s-test_resnet", 3).double().eval()
    for layer in network.score_layers.values():
        torch.nn.init.normal_(layer.weight)
    return network


def batch() -> tuple[Tensor, Tensor]:
    """Four images and their masks, of which the first has no pixel that counts, and the others unlike numbers."""
    target = torch.randint(0, 3, (4, 1, 40, 44))
    target[0] = 255
    target[1, :, 5:] = 255
    target[2, :, ::3] = 255
    return torch.rand(4, 3, 40, 44).double(), target


def gradient(model: FCN) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def step(
    model: FCN, reduction: Reduction, parts: list[tuple[Tensor, Tensor]], weight: Tensor | None = None
) -> tuple[float, Tensor]:
    """Loss and gradient of a step over a batch in parts, divided as the loop does."""
    model.zero_grad()
    objective = Objective(model, "cross_entropy", weight, 255, reduction=reduction)
    images = sum(len(image) for image, _ in parts)
    amount = sum(float(objective.amount(target)) for _, target in parts)
    total = 0.0
    for image, target in parts:
        loss = (objective(image, target) / ((amount or 1) if reduction == "mean" else images)).sum()
        loss.backward()
        total += loss.item()
    return total, gradient(model)


def test_the_sum_is_caffes(model: FCN):
    image, target = batch()
    logits = upsample(model.scores(image), (40, 44), grid=model.grid)
    expected = F.cross_entropy(logits, target[:, 0], ignore_index=255, reduction="sum") / 4
    # As in Caffe's softmax_loss_layer.cpp with `normalize: false`, pixel by pixel.
    by_hand = sum(
        -logits[number, :, row, column].log_softmax(0)[target[number, 0, row, column]]
        for number, _, row, column in (target != 255).nonzero().tolist()
    )
    # As in pytorch-fcn's cross_entropy2d: the labelled pixels in one row, their log-softmax summed.
    flat, labels = logits.log_softmax(1).permute(0, 2, 3, 1).flatten(0, 2), target[:, 0].flatten()
    pytorch_fcns = F.nll_loss(flat[labels != 255], labels[labels != 255].long(), reduction="sum") / 4
    loss, _ = step(model, "sum", [(image, target)])
    assert loss == pytest.approx(pytorch_fcns.item(), abs=1e-10, rel=0)
    assert loss == pytest.approx(expected.item(), abs=1e-10, rel=0)
    assert loss == pytest.approx(by_hand.item() / 4, abs=1e-10, rel=0)


def test_the_hardest_loss_is_the_mean_over_a_fifth_of_each_image(model: FCN):
    image, target = batch()
    logits = upsample(model.scores(image), (40, 44), grid=model.grid)
    losses = F.cross_entropy(logits, target[:, 0], ignore_index=255, reduction="none")
    hard = []
    for loss, mask in zip(losses, target[:, 0], strict=True):
        counted = loss[mask != 255].sort(descending=True).values
        hard += [counted[counted >= counted[math.ceil(0.2 * len(counted)) - 1]]] if len(counted) else []
    found = Objective(model, "hardest", None, 255)(image, target)
    assert found.item() == pytest.approx(torch.cat(hard).mean().item(), abs=1e-12)


def test_images_are_averaged_each_over_its_own_pixels(model: FCN):
    image, target = batch()
    alone = [step(model, "mean", [(image[number : number + 1], target[number : number + 1])]) for number in range(4)]
    loss, together = step(model, "image", [(image, target)])
    assert loss == pytest.approx(sum(each for each, _ in alone) / 4, abs=1e-12)
    torch.testing.assert_close(together, sum(each for _, each in alone) / 4, rtol=0, atol=1e-10)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_image_without_labels_has_neither_loss_nor_gradient(model: FCN, reduction: Reduction):
    image, target = batch()
    loss, slope = step(model, reduction, [(image[:1], target[:1])])
    assert loss == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 3.0]).double()])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_parts_of_a_batch_add_up_to_the_whole(model: FCN, reduction: Reduction, weight: Tensor | None):
    image, target = batch()
    loss, whole = step(model, reduction, [(image, target)], weight)
    for size in (1, 2):
        parts = list(zip(image.split(size), target.split(size), strict=True))
        part_loss, accumulated = step(model, reduction, parts, weight)
        assert part_loss == pytest.approx(loss, abs=1e-10)
        torch.testing.assert_close(accumulated, whole, rtol=0, atol=1e-10)
