"""Networks over today's backbones, from image to label map."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fullyconv.benchmark import inputs, peers
from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.machine import Cost
from fullyconv.benchmark.nets import centred, eager_label_map, label_map, operations
from fullyconv.runtimes.formats import NEEDED, Format, opened, write
from fullyconv.runtimes.pipeline import Pipeline, traced

CLASSES = 21

Make = Callable[[], nn.Module]

SMP, TORCHVISION, HUGGING_FACE = "segmentation_models_pytorch", "torchvision", "transformers"


def works(quick: bool) -> list[Work]:
    """From image to label map over today's backbones, against other heads and other runtimes."""
    side = 64 if quick else 512
    small = ("resnet10t", "mobilenetv3_small_050") if quick else ("resnet50", "mobilenetv3_large_100")
    others: list[tuple[str, str, Make, str, Target | None]] = [
        ("resnet18", "SMP FPN resnet18", partial(peers.smp, "fpn", "resnet18", CLASSES), SMP, Target(5, 8)),
        ("resnet18", "SegFormer B0", partial(peers.SegFormer, CLASSES), HUGGING_FACE, None),
        (small[0], "SMP FPN resnet50", partial(peers.smp, "fpn", "resnet50", CLASSES), SMP, Target(4.5, 8)),
        (small[0], "FCN resnet50", partial(peers.Torchvision, "fcn_resnet50", CLASSES), TORCHVISION, None),
        (
            small[1],
            "LR-ASPP mobilenet_v3_large",
            partial(peers.Torchvision, "lraspp_mobilenet_v3_large", CLASSES),
            TORCHVISION,
            Target(7, 10),
        ),
    ]
    formats: list[tuple[Format, str]] = [("onnx", "ONNX Runtime"), ("openvino", "OpenVINO")]
    size = f"{side}x{side}"
    return [
        *(
            Work(
                f"fcn8s-{trunk}, {size}, labels",
                f"{module}: {name}" if module == TORCHVISION else name,
                partial(_against, trunk, make, side),
                alike=False,
                needs=(module,),
                target=target,
            )
            for trunk, name, make, module, target in others
        ),
        *(
            Work(
                f"fcn8s-resnet18, {size}, labels",
                f"{name}, the same net",
                partial(_in_runtime, format, side),
                True,
                tuple(NEEDED[format]),
            )
            for format, name in formats
        ),
    ]


def _against(trunk: str, make: Make, side: int) -> Sides:
    image = inputs.image(1, (side, side))
    model = centred(f"fcn8s-{trunk}", CLASSES, image)
    peer = make().eval()
    return Sides(
        partial(label_map, model, image), partial(eager_label_map, peer, image), Cost(operations(model, image))
    )


def _in_runtime(format: Format, side: int) -> Sides:
    image = inputs.image(1, (side, side))
    model = centred("fcn8s-resnet18", CLASSES, image)
    program = traced(Pipeline(model, output="labels"), "float")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml" if format == "openvino" else Path(folder) / "model.onnx"
        write(program, file, format, {})
        run = opened(file, format, "fp32")
    pixels = image.permute(0, 2, 3, 1).contiguous().numpy()
    return Sides(
        partial(label_map, model, image), lambda: torch.from_numpy(run(pixels)), Cost(operations(model, image))
    )
