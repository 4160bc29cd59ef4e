"""The paper's FCN-8s over VGG16."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from fullyconv.benchmark import inputs
from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.machine import Cost, Precision
from fullyconv.benchmark.nets import centred, eager_label_map, exported_label_map, label_map
from fullyconv.benchmark.peers import PytorchFCN8s
from fullyconv.kernels import upsample
from fullyconv.models import FCN
from fullyconv.runtimes.computing import has_bf16
from fullyconv.runtimes.engine import Engine
from fullyconv.runtimes.formats import NEEDED, Format
from fullyconv.runtimes.pipeline import as_input

CLASSES = 21


def works(quick: bool) -> list[Work]:
    """The paper's FCN-8s over VGG16 in Caffe's geometry, against pytorch-fcn's network and other runtimes.

    All compute with the same weights, which are random: what bf16 and int8 change would be less on a trained net. The
    limit counts the operations of a direct convolution where the image reaches; Winograd's way takes fewer.
    """
    side = 64 if quick else 500
    name, peer = f"FCN-8s VGG16, {side}x{side}", "pytorch-fcn's network, eager"
    formats: list[tuple[Format, str]] = [("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")]
    return [
        Work(f"{name}, logits, float32", peer, partial(_logits, side), target=Target(1.9, 3, megabytes=180)),
        *([Work(f"{name}, labels, bf16", peer, partial(_bf16, side), target=Target(3.8, 4.5))] if has_bf16() else []),
        Work(
            f"{name}, labels, int8",
            peer,
            partial(_int8, side),
            needs=(*NEEDED["openvino"], "nncf"),
            target=Target(4.3, 7),
        ),
        *(
            Work(
                f"{name}, labels, float32",
                f"{runtime}, the same net",
                partial(_in_runtime, side, format),
                needs=tuple(NEEDED[format]),
            )
            for format, runtime in formats
        ),
    ]


def _parts(side: int, precision: Precision = "float32") -> tuple[FCN, Tensor, PytorchFCN8s, Cost]:
    """Our network, an image, the peer's network, and what both cannot do without."""
    image = inputs.image(1, (side, side))
    model = centred("fcn8s-vgg16", CLASSES, image, geometry="caffe")
    peer = PytorchFCN8s(model)
    return model, image, peer, Cost(reachable_operations(peer, side), precision=precision)


def _logits(side: int) -> Sides:
    model, image, peer, cost = _parts(side)
    return Sides(
        partial(_our_logits, Engine(model), image), partial(_their_logits, peer, _normalised(model, image)), cost
    )


def _bf16(side: int) -> Sides:
    model, image, peer, cost = _parts(side, "bfloat16")
    engine = Engine(model, precision="bf16")
    return Sides(partial(label_map, engine, image), partial(eager_label_map, peer, _normalised(model, image)), cost)


def _int8(side: int) -> Sides:
    model, image, peer, cost = _parts(side, "int8")
    engine = Engine(model, "openvino", "int8", calibration=[as_input(image[0], "float")])
    return Sides(
        partial(label_map, engine, image),
        partial(eager_label_map, peer, _normalised(model, image)),
        cost,
        "openvino",
    )


def _in_runtime(side: int, format: Format) -> Sides:
    model, image, _, cost = _parts(side)
    return Sides(partial(label_map, Engine(model), image), exported_label_map(model, image, format), cost)


def _normalised(model: FCN, image: Tensor) -> Tensor:
    return (image - model.mean) / model.std


@torch.inference_mode()
def _our_logits(engine: Engine, image: Tensor) -> Tensor:
    scores = engine.scores(image.contiguous(memory_format=torch.channels_last))
    return upsample(scores, (image.shape[2], image.shape[3]), grid=engine.model.grid)


@torch.inference_mode()
def _their_logits(network: nn.Module, image: Tensor) -> Tensor:
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
