"""Networks over today's backbones, from image to label map."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from fullyconv.benchmark import inputs, peers
from fullyconv.benchmark.comparing import Sides, Target, Work
from fullyconv.benchmark.machine import Cost
from fullyconv.benchmark.nets import centred, eager_label_map, exported_label_map, label_map, operations
from fullyconv.models import FCN
from fullyconv.runtimes.computing import Runtime
from fullyconv.runtimes.engine import Engine
from fullyconv.runtimes.formats import NEEDED, Format, Precision
from fullyconv.runtimes.pipeline import as_input

CLASSES = 21

Make = Callable[[], nn.Module]

PRECISIONS: tuple[tuple[Precision, tuple[str, ...]], ...] = (("fp32", ()), ("int8", (*NEEDED["openvino"], "nncf")))

SMP, TORCHVISION, HUGGING_FACE = "segmentation_models_pytorch", "torchvision", "transformers"


def works(quick: bool) -> list[Work]:
    """From image to label map over today's backbones, against other heads and other runtimes.

    With random weights, ours in float32 or int8, the peers in float32. Heads differ but where the same net is named, so
    the ratios are not at equal quality; docs/runtimes.md tells what int8 costs a trained net. Targets are those of the
    fastest precision. In brackets stands the runtime that was found fastest. The limit counts our network's
    convolutions.
    """
    side = 64 if quick else 512
    runtime: Runtime = "auto" if quick else "fastest"  # which takes a while to find
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
                f"fcn8s-{trunk}, {size}, labels{', int8' if precision == 'int8' else ''}",
                f"{module}: {name}" if module == TORCHVISION else name,
                partial(_against, trunk, make, side, runtime, precision),
                alike=False,
                needs=(module, *needed),
                target=target if precision == "int8" else None,
            )
            for trunk, name, make, module, target in others
            for precision, needed in PRECISIONS
            if precision == "fp32" or target
        ),
        *(
            Work(
                f"fcn8s-resnet18, {size}, labels",
                f"{name}, the same net",
                partial(_in_runtime, format, side, runtime),
                True,
                tuple(NEEDED[format]),
            )
            for format, name in formats
        ),
    ]


def _against(trunk: str, make: Make, side: int, runtime: Runtime, precision: Precision) -> Sides:
    image = inputs.image(1, (side, side))
    model = centred(f"fcn8s-{trunk}", CLASSES, image)
    engine = _started(model, image, runtime, precision)
    return Sides(
        partial(label_map, engine, image),
        partial(eager_label_map, make().eval(), image),
        Cost(operations(model, image), precision="int8" if precision == "int8" else "float32"),
        engine.chosen or "",
    )


def _in_runtime(format: Format, side: int, runtime: Runtime) -> Sides:
    image = inputs.image(1, (side, side))
    model = centred("fcn8s-resnet18", CLASSES, image)
    engine = _started(model, image, runtime)
    return Sides(
        partial(label_map, engine, image),
        exported_label_map(model, image, format),
        Cost(operations(model, image)),
        engine.chosen or "",
    )


def _started(model: FCN, image: Tensor, runtime: Runtime, precision: Precision = "fp32") -> Engine:
    """An engine that has computed an image, on which int8 is calibrated, and so has found the fastest runtime."""
    engine = Engine(model, runtime, precision, calibration=[as_input(image[0], "float")])
    label_map(engine, image)
    return engine
