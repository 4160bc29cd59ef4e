"""Classifiers, by name: timm's, torchvision's, the paper's, or a Python file's."""

import difflib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.means import IMAGENET_STD
from fullyconv.models.classic import CLASSICS, ClassicNet, torchvision_names
from fullyconv.surgery import NotConvertible, transplant, with_bands

SIZE = (224, 224)  # of the images that a classifier is for, where it does not say
HUBS = ("hf-hub:", "local-dir:")
# Of torchvision: their weights are for images less 0.5, divided by 0.5. Its `transform_input` gets there from the
# statistics of ImageNet, band by band, which leaves no map to follow; to divide so at once is the same.
INCEPTIONS = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Classifier:
    """A network that gives logits `(N, K)` for images of one size.

    Args:
        name: What it was asked for as; without `timm:`, unless that would name one of the paper's.
        network: The network itself.
        size: Height and width of the images that it is for.
        statistics: The mean and std that its images, in [0, 1], are normalised with, where they are known.
        own: Whether only its code tells how it is built, so that a model folder must hold its graph.
    """

    name: str
    network: nn.Module
    size: tuple[int, int]
    statistics: Mapping[str, Sequence[float]]
    own: bool = False


def classifier(name: str, *, channels: int = 3, pretrained: bool = False, num_classes: int | None = None) -> Classifier:
    """A classifier by name.

    Args:
        name: One of the paper's, `vgg16`, `alexnet` or `googlenet`; any network of timm, such as `resnet18` or
            `timm:vgg16`; `torchvision:resnet18`; `hf-hub:` and `local-dir:` as timm reads them, always with their
            weights; or `file.py:function`, a function without arguments that gives a network.
        channels: Bands of the image. Further bands get the mean of the first layer's kernels.
        pretrained: Whether the weights are fetched from the hub.
        num_classes: Of a network of timm or torchvision that was trained for another number of classes than usual.

    Raises:
        FullyconvError: SEG-M001 for an unknown name, SEG-M003 if the weights cannot be fetched, SEG-M051 if a Python
            file gives no network.
    """
    in_file = is_in_file(name)
    if name in CLASSICS:
        network, size = _classic(name, channels, pretrained), (CLASSICS[name].size,) * 2
    elif name.startswith("torchvision:"):
        network, size = _torchvisions(name.removeprefix("torchvision:"), pretrained, num_classes), SIZE
    elif in_file:
        network, size = _of_file(name), SIZE
    else:
        bare = name.removeprefix("timm:")
        network, size = _timms(bare, channels, pretrained, num_classes), SIZE
        name = name if bare in CLASSICS else bare
    own = in_file or name.startswith(HUBS)
    name = Path(name).name if in_file else name
    return Classifier(name, in_bands_of(network, channels), native_size(network, size), statistics_of(network), own)


def is_in_file(name: str) -> bool:
    """Whether a classifier is what a function of a Python file gives: `file.py:function`."""
    return ".py:" in f"{name}:"


def native_size(network: nn.Module, size: tuple[int, int] = SIZE) -> tuple[int, int]:
    """The height and width that a network says it is for, as timm's networks do, or else the given one."""
    height, width = settings_of(network).get("input_size", (3, *size))[1:]
    return height, width


def statistics_of(network: nn.Module) -> dict[str, Sequence[float]]:
    """The mean and std that a network says its images are normalised with."""
    settings = settings_of(network)
    return {key: settings[key] for key in ("mean", "std") if key in settings}


def settings_of(network: nn.Module) -> Mapping[str, Any]:
    """What a network tells of itself in timm's way."""
    return getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None) or {}


def _classic(name: str, channels: int, pretrained: bool) -> nn.Module:
    network = ClassicNet(name, channels)
    if pretrained:
        transplant(network, in_bands(_from_hub(name), network, channels))
    return network


def _timms(name: str, channels: int, pretrained: bool, num_classes: int | None) -> nn.Module:
    from_hub = name.startswith(HUBS)
    if not from_hub and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3) or ["resnet18"]
        raise FullyconvError("SEG-M001", f"timm has no network {name!r}; the nearest are {', '.join(near)}")
    options: dict[str, Any] = {} if pretrained or from_hub else {"in_chans": channels}
    options |= {} if num_classes is None else {"num_classes": num_classes}
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained or from_hub, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise unreachable(name, error) from error
    return network


def _torchvisions(name: str, pretrained: bool, num_classes: int | None) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["resnet18"]
        raise FullyconvError("SEG-M001", f"torchvision has no classifier {name!r}; the nearest are {', '.join(near)}")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in INCEPTIONS:
        # Without weights, they would be initialised by a method that takes minutes, and say so.
        options |= {"transform_input": False} | ({} if pretrained else {"init_weights": False})
    try:
        network: nn.Module = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    except (OSError, RuntimeError) as error:
        raise unreachable(name, error) from error
    if name in INCEPTIONS:
        network.default_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # type: ignore[assignment]
    return network


def _of_file(name: str) -> nn.Module:
    """The network that a function of a Python file gives."""
    path, _, function = name.rpartition(":") if ".py:" in name else (name, "", "")
    if not Path(path).is_file():
        raise FullyconvError("SEG-M051", f"{path} does not exist; give file.py:function")
    if not function:
        names = re.findall(r"^def (\w+)\(\)", Path(path).read_text(encoding="utf-8"), re.MULTILINE)
        found = f", such as {' or '.join(f'{path}:{each}' for each in names[:3])}" if names else ""
        raise FullyconvError("SEG-M051", f"{path} is a file; say which of its functions gives the network{found}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        network = getattr(module, function)()
    except Exception as error:  # whatever a stranger's file may raise
        raise FullyconvError("SEG-M051", f"{name} gives no network ({type(error).__name__}: {error})") from error
    if not isinstance(network, nn.Module):
        raise FullyconvError("SEG-M051", f"{name} gives {type(network).__name__}, not a torch.nn.Module")
    return network


def in_bands_of(network: nn.Module, channels: int) -> nn.Module:
    """The network with a first layer for images of so many bands, changing it where that layer is for RGB."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and first.in_channels == 3 != channels:
        first.in_channels = channels
        first.weight = nn.Parameter(with_bands(first.weight.detach(), channels))
    return network


def _from_hub(name: str) -> dict[str, Tensor]:
    """The weights of one of the paper's classifiers under its own names."""
    if name != "vgg16":
        raise FullyconvError(
            "SEG-M003",
            f"no hub holds the paper's {name}; pass the authors' file as --pretrained FILE, or --pretrained none",
        )
    try:
        state = torchvision.models.vgg16(weights="IMAGENET1K_V1").state_dict()
    except (OSError, RuntimeError) as error:
        raise unreachable(name, error) from error
    return {renamed(key, torchvision_names()): tensor for key, tensor in state.items()}


def renamed(name: str, names: Mapping[str, str]) -> str:
    """The name of a weight whose layer has another name."""
    stem, _, leaf = name.rpartition(".")
    return f"{names.get(stem, stem)}.{leaf}"


def in_bands(source: Mapping[str, Tensor], network: nn.Module, channels: int) -> dict[str, Tensor]:
    """The weights of a network for RGB as one for other bands takes them.

    Its first layer is as `with_bands` gives it. Of `mean` and `std`, those of colours are the source's. Other bands
    keep their own mean, and come out of the division as strong beside the source's colours as they were beside
    ImageNet's: Caffe's kernels are made for values from 0 to 255.

    Args:
        source: By the names of `network`.
        network: Tells the shapes.
        channels: Bands of its images.
    """
    own = network.state_dict()

    def fitted(name: str, tensor: Tensor) -> Tensor:
        if name not in own or tensor.ndim != 4 or (tensor.shape[1], own[name].shape[1]) != (3, channels):
            return tensor
        if name in ("mean", "std"):
            kept = own[name] * (tensor.mean() / fmean(IMAGENET_STD)) if name == "std" else own[name]
            return torch.cat((tensor, kept[:, 3:]), 1) if channels >= 3 else kept
        return with_bands(tensor, channels)

    return {name: fitted(name, tensor) for name, tensor in source.items()}


def not_convertible(source: Classifier, error: NotConvertible) -> FullyconvError:
    """SEG-M002: a classifier that cannot slide; the error says what would have to change in it."""
    others = "" if source.own else "; try resnet18 or convnext_atto"
    return FullyconvError("SEG-M002", f"{source.name} cannot be made fully convolutional: {error}{others}")


def unreachable(name: str, error: Exception) -> FullyconvError:
    """SEG-M003: the hub did not answer."""
    return FullyconvError(
        "SEG-M003",
        f"the weights of {name} cannot be fetched ({type(error).__name__}); download its weight file elsewhere "
        "and pass --pretrained FILE, or train from scratch with --pretrained none",
    )
