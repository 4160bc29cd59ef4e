"""A packed network gives the network's scores, at every size, and leaves the network alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from thin import make_thin
from torch import Tensor, nn

from fullyconv.models import FCN, create
from fullyconv.models.classic import Rectified
from fullyconv.runtimes import convolutions, fusion
from fullyconv.runtimes.convolutions import PackedConv, UnfoldedConv
from fullyconv.runtimes.fusion import packed_graph
from fullyconv.runtimes.packed import NotPackable, packed
from fullyconv.surgery.graphs import traced

SIZES = [(1, 1), (37, 53), (64, 64), (101, 75)]
NETS: dict[str, dict[str, Any]] = {
    "sums": {"name": "fcn8s-test_resnet"},
    "norms that activate, and gates": {"name": "fcn8s-test_efficientnet"},
    "norms over channels": {"name": "fcn8s-test_convnext"},
    "vgg": {"name": "fcn8s-vgg16", "upscore": "learned"},
    "caffe": {"name": "fcn8s-vgg16", "geometry": "caffe"},
    "groups and response norms": {"name": "fcn16s-alexnet"},
    "branches": {"name": "fcn16s-googlenet", "geometry": "caffe"},
    "streams": {"name": "fcn32s-vgg16", "channels": 4, "streams": (3, 1), "log_bands": [3]},
}


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_thin(patch, "vgg16", "alexnet", "googlenet")
        yield


def network(**options: Any) -> FCN:
    """A network whose score layers score and whose norms have seen something."""
    torch.manual_seed(0)
    model = create(num_classes=5, **options).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.bias):
                nn.init.normal_(tensor, std=0.2)  # type: ignore[arg-type]
            for tensor in (part.running_var, part.weight):
                nn.init.uniform_(tensor, 0.5, 2)  # type: ignore[arg-type]
        if isinstance(part, FCN):
            for layer in part.score_layers.values():
                assert isinstance(layer, nn.Conv2d)
                nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
    return model


def images(model: FCN, size: tuple[int, int]) -> Tensor:
    return torch.rand(2, model.mean.shape[1], *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(model: FCN, scores: Tensor, image: Tensor) -> float:
    """The largest difference from the network's own scores, as a share of the largest of them."""
    expected = model.scores(image)
    return float((scores - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("net", NETS)
def test_packed_scores_equal_the_networks_at_every_size(net: str) -> None:
    model = network(**NETS[net])
    scores = packed(model)
    for size in SIZES:
        image = images(model, size)
        assert difference(model, scores(image), image) < 1e-5


@pytest.mark.parametrize("net", NETS)
def test_scores_of_bf16_are_near_and_in_float32(net: str) -> None:
    model = network(**NETS[net])
    image = images(model, (64, 80))
    scores = packed(model, precision="bf16")(image)
    assert scores.dtype == torch.float32
    assert difference(model, scores, image) < 0.1


def test_every_layer_of_a_resnet_becomes_a_packed_convolution_or_its_pool() -> None:
    trunk = network(name="fcn8s-test_resnet").trunk
    graph = packed_graph(trunk, 3, torch.float32)  # type: ignore[arg-type]
    kinds = {type(graph.get_submodule(node.target)) for node in graph.graph.nodes if node.op == "call_module"}
    assert kinds <= {PackedConv, nn.MaxPool2d, nn.AvgPool2d}
    assert not [node for node in graph.graph.nodes if node.op in ("call_function", "call_method")]


class SiLU(nn.SiLU):
    """A layer that inherits from torch's and computes otherwise."""

    def forward(self, input: Tensor) -> Tensor:
        return input * torch.sigmoid(4 * input)


class Odd(nn.Module):
    """What is no plain run of convolution, sum and activation."""

    def __init__(self, compute: Callable[["Odd", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.steep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), SiLU()
        self.compute = compute

    def forward(self, image: Tensor) -> Tensor:
        return self.compute(self, self.first(image))


def overwritten(net: Odd, image: Tensor) -> Tensor:
    side = net.second(image)
    return side + image.relu_()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "compute",
    [
        lambda net, image: torch.add(image, net.second(image), alpha=0.1),
        lambda net, image: net.second(net.second(image).relu()),
        lambda net, image: net.steep(net.second(image)),
        lambda net, image: F.gelu(net.second(image), approximate="tanh"),
        overwritten,
    ],
    ids=["weighted sum", "layer run twice", "layer that inherits", "gelu by tanh", "overwritten"],
)
@torch.no_grad()
def test_what_is_fused_is_what_it_is_taken_for(compute: Callable[[Odd, Tensor], Tensor]) -> None:
    plain = traced(Odd(compute))
    image = torch.randn(2, 3, 9, 12)
    assert torch.allclose(packed_graph(plain, 3, torch.float32)(image.clone()), plain(image), rtol=0, atol=1e-5)


def test_a_packed_trunk_that_gives_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fusion.ACTIVATIONS, nn.ReLU, "tanh")
    with pytest.raises(NotPackable, match="not what they give one by one"):
        packed(create("fcn8s-test_resnet", 5))


@pytest.mark.parametrize(("kind", "bias"), [(nn.Conv2d, False), (Rectified, True)])
def test_a_score_layer_of_ones_own_is_computed_as_it_is(kind: type[nn.Conv2d], bias: bool) -> None:
    model = network(name="fcn8s-test_resnet")
    finest, layer = next(iter(model.score_layers.items()))
    model.score_layers[finest] = kind(layer.in_channels, 5, 1, bias=bias)  # type: ignore[arg-type]
    image = images(model, (64, 64))
    assert difference(model, packed(model)(image), image) < 1e-5


def test_the_given_network_stays_as_it_is() -> None:
    model = network(name="fcn8s-test_resnet").train()
    before, names = {name: tensor.clone() for name, tensor in model.state_dict().items()}, str(model)
    packed(model)(images(model, (64, 64)))
    assert str(model) == names
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_trunk_without_a_graph_is_refused() -> None:
    with pytest.raises(NotPackable, match="TokenMap has no graph"):
        packed(network(name="fcn16s-test_vit"))


def test_a_network_of_another_toolkit_is_refused() -> None:
    with pytest.raises(NotPackable, match="ForeignNet has no trunk"):
        packed(network(name="torchvision:lraspp_mobilenet_v3_large"))


def test_a_machine_without_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(NotPackable, match="bf16"):
        packed(network(name="fcn8s-test_resnet"), precision="bf16")


@pytest.mark.parametrize("padding", [(0, 0), (3, 2)])
def test_unfolded_windows_give_the_convolution(padding: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "UNFOLDED", 40)  # two rows of both images at a time, and one at the end
    torch.manual_seed(0)
    image, weight, bias = torch.randn(2, 8, 13, 15), torch.randn(16, 8, 7, 6), torch.randn(16)
    expected = F.conv2d(image, weight, bias, padding=padding).relu()
    result = UnfoldedConv(weight, bias, padding, rectified=True)(image.to(memory_format=torch.channels_last))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(result, expected, rtol=0, atol=1e-5 * float(expected.max()))
