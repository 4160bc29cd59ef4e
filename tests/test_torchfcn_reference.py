"""The paper's networks against pytorch-fcn's own classes: what scripts/torchfcn_reference.py saved of them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from torch import nn

from fullyconv.means import statistics
from fullyconv.models import FCN, ClassicFCN, create
from fullyconv.models.caffe import in_our_names
from fullyconv.models.weights import Weights, read_caffemodel
from fullyconv.surgery import Trace, bilinear_kernel, transplant

DATA = Path(__file__).with_name("data")


def load_script() -> ModuleType:
    file = Path(__file__).parents[1] / "scripts" / "torchfcn_reference.py"
    spec = importlib.util.spec_from_file_location("torchfcn_reference", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script()


def bilinear(classes: int, kernel_size: int) -> torch.Tensor:
    """The dense kernel of pytorch-fcn's `get_upsampling_weight`."""
    weight = torch.zeros(classes, classes, kernel_size, kernel_size)
    weight[range(classes), range(classes)] = bilinear_kernel(kernel_size).float()
    return weight


def state_of(net: str, layers: str = "") -> dict[str, torch.Tensor]:
    """The state_dict of one of torchfcn's networks, or that of the layers whose names begin so."""
    with safe_open(DATA / "torchfcn_logits.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])[net]
    kernels = {name: bilinear(*shape[1:3]) for name, shape in shapes.items() if name.startswith("upscore")}
    rest = {name: SCRIPT.weight(name, tuple(shape)) for name, shape in shapes.items() if name.startswith(layers)}
    return SCRIPT.amplified(rest, net) | kernels


class Known(nn.Module):
    """A trunk whose maps have been computed before."""

    maps: list[torch.Tensor]

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.maps


@pytest.fixture(scope="module")
def fcn8s() -> FCN:
    """FCN-8s at its full width."""
    model = create("fcn8s-vgg16", 21, geometry="caffe", **statistics("voc")).eval()
    taken = transplant(model, in_our_names(Weights(Path("net.pth"), state_of("FCN8s"), caffe=True), model))
    assert taken.dropped == ()
    assert taken.missing == ("mean", "std")
    return model


@pytest.fixture(scope="module")
def maps(fcn8s: FCN) -> dict[tuple[int, int], list[torch.Tensor]]:
    """Its pool3, pool4 and fc7 of an image of each size; the four networks have one trunk and its weights in common."""
    with torch.inference_mode():
        return {size: fcn8s.trunk((SCRIPT.pixels(size)[None] / 255 - fcn8s.mean) / fcn8s.std) for size in SCRIPT.SIZES}


@pytest.mark.parametrize(
    ("net", "taps", "tap_scales"),
    [("FCN32s", 1, (1,)), ("FCN16s", 2, (1, 1)), ("FCN8s", 3, (1, 1, 1)), ("FCN8sAtOnce", 3, (1e-4, 1e-2, 1))],
)
def test_logits_are_those_of_torchfcn(net, taps, tap_scales, fcn8s, maps):
    trunk = Known()
    placed = Trace(fcn8s.grids[-taps:], (256, 512, 4096)[-taps:], ())
    model = ClassicFCN(trunk, placed, 21, mean=[0.0] * 3, std=[1.0] * 3, tap_scales=tap_scales).eval()
    weights = Weights(Path("net.pth"), state_of(net, "score"), caffe=True)
    assert transplant(model, in_our_names(weights, model)).dropped == ()
    for (height, width), known in maps.items():
        trunk.maps = known[-taps:]
        with safe_open(DATA / "torchfcn_logits.safetensors", "pt") as file:
            expected = file.get_tensor(f"{net} {height}x{width}")
        with torch.inference_mode():
            logits = model(torch.empty(1, 3, height, width)).flatten()[:: SCRIPT.STEP]
        assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["old.caffemodel", "new.caffemodel"])
def test_snapshots_are_read_as_chainers_protobuf_wrote_them(name):
    found = read_caffemodel(DATA / name)
    assert list(found) == ["conv1_1", "fc8"]
    for layer, (kernel, bias) in found.items():
        shape = {"conv1_1": (2, 3, 3, 3), "fc8": (4, 5)}[layer]
        assert kernel.reshape(shape).tolist() == SCRIPT.values(f"{layer}.weight", shape).tolist()
        assert bias.ravel().tolist() == SCRIPT.values(f"{layer}.bias", shape[:1]).tolist()
