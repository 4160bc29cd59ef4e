"""The paper's FCN-8s over VGG16."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fullyconv.benchmark import inputs
from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.machine import Cost
from fullyconv.benchmark.nets import centred, eager_label_map, label_map
from fullyconv.benchmark.peers import PytorchFCN8s
from fullyconv.kernels import upsample
from fullyconv.models import FCN

CLASSES = 21


def works(quick: bool) -> list[Work]:
    """The paper's FCN-8s over VGG16 in Caffe's geometry, against pytorch-fcn's network with the same weights."""
    side = 64 if quick else 500
    return [
        Work(
            f"FCN-8s VGG16, {side}x{side}, logits, float32",
            "pytorch-fcn's network, eager",
            partial(_sides, side, _logits, _eager),
            target=Target(1.9, 3, megabytes=180),
        ),
        Work(
            f"FCN-8s VGG16, {side}x{side}, labels, float32",
            "pytorch-fcn's network, eager",
            partial(_sides, side, label_map, eager_label_map),
            target=Target(1.9, 3, megabytes=180),
        ),
    ]


def _sides(side: int, ours: Callable[[FCN, Tensor], Tensor], peer: Callable[[nn.Module, Tensor], Tensor]) -> Sides:
    image = inputs.image(1, (side, side))
    model = centred("fcn8s-vgg16", CLASSES, image, geometry="caffe")
    theirs = PytorchFCN8s(model)
    normalised = (image - model.mean) / model.std
    return Sides(
        partial(ours, model, image), partial(peer, theirs, normalised), Cost(reachable_operations(theirs, side))
    )


@torch.inference_mode()
def _logits(model: FCN, image: Tensor) -> Tensor:
    scores = model.scores(image.contiguous(memory_format=torch.channels_last))
    return upsample(scores, (image.shape[2], image.shape[3]), grid=model.grid)


@torch.inference_mode()
def _eager(network: nn.Module, image: Tensor) -> Tensor:
    logits: Tensor = network(image)
    return logits


def reachable_operations(network: PytorchFCN8s, side: int) -> float:
    """Operations of the trunk that depend on a square image; the padding beyond its reach is constant."""
    low, high, size = 0, side, side  # of what the image reaches, and of the map, along an axis
    total = 0
    for layer in (*network.to_pool3.modules(), *network.to_pool4.modules(), *network.to_fc7.modules()):
        if isinstance(layer, nn.Conv2d):
            reach, padding = layer.kernel_size[0] - 1, int(layer.padding[0])
            size += 2 * padding - reach
            low, high = max(0, low + padding - reach), min(size, high + padding)
            total += 2 * layer.weight.numel() * (high - low) ** 2
        elif isinstance(layer, nn.MaxPool2d):
            low, high, size = low // 2, math.ceil(high / 2), math.ceil(size / 2)
    return float(total)
