"""Training steps."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.benchmark import inputs, peers
from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.machine import Cost
from fullyconv.benchmark.nets import operations
from fullyconv.models import FCN, create
from fullyconv.training.loop import Average, Objective
from fullyconv.training.plan import Precision, precision_of
from fullyconv.training.recipes import RECIPES, optimizer_of, parameter_groups

CLASSES = 11
PASSES = 3  # forward, and as much again for the gradients of the maps and of the weights
SMP = ("segmentation_models_pytorch",)

Step = Callable[[], Tensor]
MakeStep = Callable[[Tensor, Tensor], Step]


def works(quick: bool) -> list[Work]:
    """Training steps without their data: forward, loss, backward, optimiser, moving average.

    Ours in the precision that `fullyconv train` finds faster, the peers' in float32. The limit counts the convolutions
    of the forward pass three times.
    """
    batch, size = (2, (64, 64)) if quick else (8, (360, 480))
    on = f"{batch}x{size[0]}x{size[1]}"

    def work(trunk: str, peer: str, make: MakeStep, target: Target, needs: tuple[str, ...] = ()) -> Work:
        sides = partial(_sides, trunk, make, batch, size, "fp32" if quick else "auto")
        return Work(f"training step, fcn8s-{trunk}, {on}", peer, sides, alike=not needs, needs=needs, target=target)

    return [
        work("resnet18", "SMP FPN resnet18, defaults", partial(_smp_step, "fpn"), Target(4.8, 6), SMP),
        work("resnet18", "SMP Unet resnet18, defaults", partial(_smp_step, "unet"), Target(7.5, 9.5), SMP),
        work("mobilenetv3_small_100", "our net, NCHW, torch loss", _plain_step, Target(1.5, 2.3)),
    ]


def _sides(trunk: str, make: MakeStep, batch: int, size: tuple[int, int], wanted: Precision) -> Sides:
    image = inputs.image(batch, size)
    target = torch.stack([inputs.mask(CLASSES, size)] * batch).long()
    model, precision = _model(trunk), precision_of(wanted)
    cost = Cost(PASSES * operations(model, image), precision="bfloat16" if precision == "bf16" else "float32")
    return Sides(_our_step(model, image, target, precision), make(image, target), cost, precision)


def _model(trunk: str) -> FCN:
    torch.manual_seed(0)
    return create(f"fcn8s-{trunk}", CLASSES).eval()


def _our_step(model: FCN, image: Tensor, target: Tensor, precision: str) -> Step:
    """One step of `fullyconv train`."""
    model = model.train().to(memory_format=torch.channels_last)
    recipe = RECIPES["default"]
    objective = Objective(model, "cross_entropy", torch.ones(CLASSES), 255)
    optimizer = optimizer_of(recipe, parameter_groups(recipe, model))
    average = Average(model, recipe.ema)
    image, target = image.contiguous(memory_format=torch.channels_last), target[:, None]  # one mask, for one head

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = objective(image, target)
        loss: Tensor = (losses / objective.amount(target)).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step=100)
        return loss.detach()

    return step


def _plain_step(image: Tensor, target: Tensor) -> Step:
    """The same network as torch's examples would train it."""
    model = _model("mobilenetv3_small_100").train()
    return _step(model, image, target, RECIPES["default"].learning_rate)


def _smp_step(decoder: str, image: Tensor, target: Tensor) -> Step:
    """A step as the peer's examples write it."""
    model = peers.smp(decoder, "resnet18", CLASSES).train()
    # These networks take multiples of 32 only; padding is their own advice.
    padding = (0, -image.shape[3] % 32, 0, -image.shape[2] % 32)
    return _step(model, F.pad(image, padding), F.pad(target, padding, value=255), 1e-3)


def _step(model: nn.Module, image: Tensor, target: Tensor, learning_rate: float) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)

    def step() -> Tensor:
        loss = F.cross_entropy(model(image), target, ignore_index=255)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step
