"""Any classifier slides: its dense form gives its logits at its own size, and at any other what its patches get."""

import json
from collections import OrderedDict

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import RmsNorm2d
from torch import nn

from fullyconv.errors import FullyconvError
from fullyconv.means import IMAGENET_MEAN, IMAGENET_STD
from fullyconv.models import classifier, create, dense_form, fcn_over
from fullyconv.surgery import NotConvertible, build, convolutionalize, describe, trace

# Small networks of each kind: residual, inverted residual, ConvNeXt, plain, dense, of one map, shuffled, inception.
KINDS = ("test_resnet", "test_efficientnet", "test_convnext", "test_byobnet", "test_nfnet", "test_mambaout")


class Plain(nn.Module):
    """A classifier as a beginner writes it: functions, a flattened map, two linear layers, the logarithm at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv2 = nn.Conv2d(8, 8, 3, 2, 1)
        self.conv3 = nn.Conv2d(8, 12, 3, 2, 1)
        self.hidden = nn.Linear(12 * 3 * 3, 20)
        self.norm = nn.BatchNorm1d(20)
        self.last = nn.Linear(20, 5)

    def forward(self, image):  # type: ignore[no-untyped-def]
        image = torch.relu(self.conv2(torch.relu(self.conv1(image))))
        image = torch.relu(self.conv3(image))
        hidden = torch.dropout(self.norm(self.hidden(image.view(image.size(0), -1))), 0.5, self.training)
        return torch.log_softmax(self.last(torch.relu(hidden)), dim=-1)


def relative_difference(network: nn.Module, dense: nn.Module, size: tuple[int, int]) -> float:
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        logits, scores = network.eval()(image), dense.eval()(image)
    assert scores.shape == (*logits.shape, 1, 1)
    return float((scores[:, :, 0, 0] - logits).abs().max() / logits.abs().max())


@pytest.mark.parametrize("name", KINDS)
def test_small_networks_of_every_kind_slide(name: str) -> None:
    torch.manual_seed(0)
    source = classifier(name)
    assert relative_difference(source.network, convolutionalize(source.network, source.size), source.size) < 1e-5


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5", "googlenet", "densenet121", "mnasnet0_5"])
def test_torchvisions_networks_slide(name: str) -> None:
    torch.manual_seed(0)
    source = classifier(f"torchvision:{name}")
    assert relative_difference(source.network, convolutionalize(source.network, (96, 64)), (96, 64)) < 1e-5


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvisions_inceptions_see_images_as_their_weights_do(name: str) -> None:
    with torch.device("meta"):
        source = classifier(f"torchvision:{name}")
        theirs = torchvision.models.get_model(name, init_weights=False, transform_input=True)
    image = torch.rand(1, 3, 8, 8)
    (mean, std), (ours, ours_std) = (
        [torch.tensor(values[key]).view(1, 3, 1, 1) for key in ("mean", "std")]
        for values in ({"mean": IMAGENET_MEAN, "std": IMAGENET_STD}, source.statistics)
    )
    assert torch.allclose((image - ours) / ours_std, theirs._transform_input((image - mean) / std), atol=1e-5)


def test_a_network_by_name_sees_images_as_its_classifier_does() -> None:
    assert create("fcn32s-torchvision:googlenet", 2).mean.flatten().tolist() == [0.5, 0.5, 0.5]
    for name in ("test_vit", "test_efficientnet"):
        model, told = create(f"fcn16s-{name}", 2), timm.get_pretrained_cfg(name)
        assert torch.cat((model.mean, model.std)).flatten().tolist() == pytest.approx([*told.mean, *told.std])
    assert create("fcn16s-test_vit", 2, std=(0.1, 0.2, 0.3)).std.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_a_cell_says_of_the_image_what_the_classifier_says_of_its_patch() -> None:
    """Without padding, sliding is cutting out patches: Long, Shelhamer and Darrell 2015, section 3.1."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(2))
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 9, 10), nn.ReLU(), nn.Linear(10, 4)).double().eval()
    dense = convolutionalize(network, (31, 31)).eval()
    image = torch.randn(1, 3, 39, 47, dtype=torch.float64)
    scores = dense(image)
    assert scores.shape == (1, 4, 2, 3)
    for row in range(2):
        for column in range(3):
            patch = image[:, :, 8 * row : 8 * row + 31, 8 * column : 8 * column + 31]
            assert torch.allclose(scores[:, :, row, column], network(patch), rtol=0, atol=1e-12)


def test_a_beginners_network_slides_and_keeps_its_classes() -> None:
    torch.manual_seed(0)
    network = Plain()
    dense = convolutionalize(network, 24)
    assert relative_difference(network, dense, (24, 24)) < 1e-5
    assert dense(torch.randn(1, 3, 40, 56)).shape == (1, 5, 3, 5)
    assert dense.score == "last"
    assert [int(grid.stride) for grid in trace(dense.trunk([4, 8])).grids] == [4, 8]


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("resnet18", {8: 128, 16: 256, 32: 512}),
        ("mobilenetv3_small_100", {8: 24, 16: 48, 32: 1024}),
        ("densenet121", {8: 512, 16: 1024, 32: 1024}),
        ("convnext_atto", {4: 40, 8: 80, 16: 160, 32: 320}),
        ("torchvision:googlenet", {8: 480, 16: 832, 32: 1024}),
        ("torchvision:vgg11", {8: 512, 16: 512, 32: 4096}),
        ("timm:vgg16", {8: 512, 16: 512, 32: 4096}),
    ],
)
def test_taps_are_the_last_maps_of_their_stages(name: str, taps: dict[int, int]) -> None:
    with torch.device("meta"):
        trunk = dense_form(classifier(name)).trunk(list(taps))
        traced = trace(trunk.eval())
    assert dict(zip([int(grid.stride) for grid in traced.grids], traced.channels, strict=True)) == taps


def test_dropout_and_batch_norms_still_follow_the_mode() -> None:
    dense = convolutionalize(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)), (3, 3)
    )
    before = dense.network.get_submodule("1").running_mean.clone()
    dense.eval()(torch.rand(4, 3, 3, 3))
    assert torch.equal(dense.network.get_submodule("1").running_mean, before)
    dense.train()(torch.rand(4, 3, 3, 3))
    assert not torch.equal(dense.network.get_submodule("1").running_mean, before)


class Dropping(nn.Module):
    """Drops in its body and in its head, by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 64, 3, 2, 1))
        self.last = nn.Linear(64, 5)

    def forward(self, image):  # type: ignore[no-untyped-def]
        maps = F.dropout2d(self.body(image), 0.25, self.training)
        return self.last(F.dropout(torch.dropout(maps.mean((2, 3)), 0.5, self.training), training=self.training))


def test_dropout_by_functions_follows_the_mode() -> None:
    classifier, image = Dropping().eval(), torch.rand(1, 3, 16, 16)
    dense = convolutionalize(classifier, 16)
    assert [layer.p for layer in dense.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)] == [0.25, 0.5, 0.5]
    assert torch.allclose(dense.logits(image), classifier(image), atol=1e-6)
    torch.manual_seed(0)
    dropped = dense.train().logits(image)
    torch.manual_seed(0)
    assert torch.allclose(dropped, classifier.train()(image), atol=1e-6)
    assert not torch.allclose(dropped, dense.logits(image))
    assert not any(isinstance(layer, nn.Dropout) for layer in classifier.modules())


def test_the_classifier_is_left_as_it_was_and_its_weights_are_shared() -> None:
    network = torchvision.models.resnet18().train()
    names = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    dense = convolutionalize(network)
    assert network.training
    assert names == {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert dense.network.get_submodule("layer1.0.conv1").weight is network.layer1[0].conv1.weight


class Distilled(nn.Module):
    """Two heads, for the truth and for a teacher, whose mean counts; behind a layer with a factor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 6, 3, 2, 1)
        self.factor = nn.Parameter(torch.tensor([1.5]))
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5))
        self.teacher = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5))

    def forward(self, image):  # type: ignore[no-untyped-def]
        pooled = self.factor * torch.relu(self.trunk(image)).mean((2, 3))
        return (self.head(pooled) + self.teacher(pooled)) / 2


def test_heads_whose_scores_are_added_become_one() -> None:
    torch.manual_seed(0)
    network = Distilled()
    network.train()(torch.randn(8, 3, 8, 8))
    dense = convolutionalize(network, (8, 8))
    assert relative_difference(network, dense, (8, 8)) < 1e-5
    assert dense.score_layer.out_channels == 5
    assert dense(torch.randn(1, 3, 12, 16)).shape == (1, 5, 3, 5)


def test_a_norm_between_pool_and_linear_layer_slides() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, 2, 1), nn.AdaptiveAvgPool2d(1), RmsNorm2d(6), nn.Flatten(), nn.Linear(6, 4))
    network = nn.Sequential(*layers)
    assert relative_difference(network, convolutionalize(network, (16, 16)), (16, 16)) < 1e-5


def test_the_only_map_stands_for_the_next_stride() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 7, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    dense = convolutionalize(network, (28, 28))
    assert [int(grid.stride) for grid in trace(dense.trunk([8, 16, 32])).grids] == [7]
    with pytest.raises(NotConvertible, match="at strides 7, not at 4; fcn8s is possible, --stride 8"):
        dense.trunk([4, 8])
    with pytest.raises(NotConvertible, match="at strides 7, not at 16, 32; fcn8s is possible"):
        dense.trunk([16, 32])


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.head = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 10, 2, 2), nn.Linear(10, 5)

    def forward(self, image):  # type: ignore[no-untyped-def]
        fine = torch.relu(self.fine(image).permute(0, 2, 3, 1))
        coarse = self.coarse(fine.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.head(torch.relu(coarse).mean((1, 2)))


def test_taps_have_their_channels_first() -> None:
    trunk = convolutionalize(ChannelsLast(), (24, 24)).trunk([4, 8])
    assert [tap.shape for tap in trunk(torch.randn(1, 3, 32, 48))] == [(1, 6, 8, 12), (1, 10, 4, 6)]


class Blocks(nn.Module):
    """Puts blocks of pixels into the channels, by views, as TResNet begins."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(48, 6, 3, 2, 1), nn.Linear(6, 5)

    def forward(self, image):  # type: ignore[no-untyped-def]
        count, channels, height, width = image.size()
        blocks = image.view(count, channels, height // 4, 4, width // 4, 4).permute(0, 3, 5, 1, 2, 4).contiguous()
        return self.head(self.conv(blocks.view(count, channels * 16, height // 4, width // 4)).mean((2, 3)))


def test_blocks_of_pixels_that_become_channels_keep_their_place() -> None:
    torch.manual_seed(0)
    dense = convolutionalize(Blocks(), (32, 32))
    (grid,) = trace(dense.trunk([8])).grids
    assert (grid.stride, grid.field, grid.first) == (8, 12, -4)
    moved = torch.zeros(1, 3, 64, 64)
    moved[..., 12:19, 12:19] = torch.randn(3, 7, 7)  # cells whose fields begin at 4 and 12 see it, by rows and columns
    change = (dense.trunk([8])(moved)[0] - dense.trunk([8])(torch.zeros_like(moved))[0]).abs().sum(1)[0]
    assert change.nonzero().unique(dim=0).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_a_trunk_that_adds_upscaled_maps_takes_images_of_any_size() -> None:
    class Upscaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)
            self.up, self.down = nn.Upsample(scale_factor=2), nn.Conv2d(6, 6, 3, 4, 1)
            self.head = nn.Linear(6, 5)

        def forward(self, image):  # type: ignore[no-untyped-def]
            fine = self.fine(image)
            return self.head(self.down(fine + self.up(self.coarse(fine))).mean((2, 3)))

    model = fcn_over(convolutionalize(Upscaled(), (32, 32)).trunk([8]), 2).eval()
    assert model(torch.rand(1, 3, 37, 45)).shape == (1, 2, 37, 45)


class Branching(Plain):
    def forward(self, image):  # type: ignore[no-untyped-def]
        return super().forward(image) if image.mean() > 0 else image


class Mixing(Plain):
    def forward(self, image):  # type: ignore[no-untyped-def]
        image = self.conv3(self.conv2(self.conv1(image)))
        return self.last(image.flatten(1).cumsum(1)[:, :20])


class Masked(Plain):
    def forward(self, image, mask=None):  # type: ignore[no-untyped-def]
        return super().forward(image if mask is None else image * mask.view(1, 1, 24, 24))


class Attending(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(12, 2, batch_first=True), nn.Linear(12, 5)

    def forward(self, image):  # type: ignore[no-untyped-def]
        cells = self.conv3(self.conv2(self.conv1(image))).flatten(2).transpose(1, 2)
        return self.last(self.attention(cells, cells, cells)[0].mean(1))


class Headless(Plain):
    def forward(self, image):  # type: ignore[no-untyped-def]
        return self.norm(self.hidden(self.conv3(self.conv2(self.conv1(image))).flatten(1)))


class Reordered(Plain):
    def forward(self, image):  # type: ignore[no-untyped-def]
        return self.last(self.hidden(self.conv3(self.conv2(self.conv1(image))).permute(0, 2, 3, 1).flatten(1)))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching, "forward pass cannot be traced, as what it computes depends on the image: symbolically traced"),
        (Mixing, "it cannot slide at its cumsum behind layer conv3: cumsum is none of"),
        (Attending, "it cannot slide at its getitem behind layer attention: getitem is none of"),
        (Masked, "does not run on 3 x 24 x 24: 'NoneType' object has no attribute 'view'"),
        (Headless, "layer norm ends it, not a linear layer that gives 20 classes"),
        (Reordered, "puts positions before channels"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), "not .1, classes.: no classifier"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3)), "does not run on 3 x 24 x 24"),
    ],
)
def test_what_cannot_slide_is_refused_with_the_place(network, reason: str) -> None:
    with pytest.raises(NotConvertible, match=reason):
        convolutionalize(network(), (24, 24))


def test_a_layer_that_knows_the_size_of_its_map_is_named() -> None:
    class Fixed(nn.Module):
        def forward(self, image):  # type: ignore[no-untyped-def]
            return 2 * image.view(-1, 8, 3, 3)

    network = nn.Sequential(nn.Conv2d(3, 8, 3, 8, 1), Fixed(), nn.Flatten(), nn.Linear(72, 5))
    with pytest.raises(
        FullyconvError, match=r"SEG-M002 .*any size .layer 1: shape .*must follow the size of their maps"
    ):
        fcn_over(convolutionalize(network, 24).trunk([8]), 2)


def test_cells_on_unlike_grids_down_and_across_are_refused() -> None:
    with pytest.raises(
        FullyconvError, match=r"SEG-M002 .*layer body: conv2d .* unlike down and across; pad it by half"
    ):
        fcn_over(nn.Sequential(OrderedDict(body=nn.Conv2d(3, 4, (7, 1), 8))), 2)


def test_a_pool_over_a_map_that_is_not_square_slides() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.AvgPool2d((3, 2)), nn.Flatten(), nn.Linear(4, 5))
    dense = convolutionalize(network, (24, 16))
    assert relative_difference(network, dense, (24, 16)) < 1e-5
    assert fcn_over(dense.trunk([8]), 2).eval()(torch.rand(1, 3, 40, 50)).shape == (1, 2, 40, 50)


def test_a_network_of_one_size_is_refused() -> None:
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(1, 1, 1, 2), embed_dim=8, num_heads=(1, 1, 1, 1)
    )
    with pytest.raises(NotConvertible, match="one size only"):
        convolutionalize(network)


def test_a_graph_is_built_again_from_plain_data() -> None:
    torch.manual_seed(0)
    trunk = convolutionalize(Plain(), (24, 24)).trunk([4, 8]).eval()
    again = build(json.loads(json.dumps(describe(trunk)))).eval()
    again.load_state_dict(trunk.state_dict())
    image = torch.randn(1, 3, 33, 40)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again(image), trunk(image), strict=True))


class Own(nn.Conv2d):
    """A layer of one's own."""


def test_a_layer_of_ones_own_cannot_be_written_down() -> None:
    trunk = convolutionalize(nn.Sequential(Own(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), (3, 3)).trunk([1])
    with pytest.raises(NotConvertible, match="layer 0 is a Own of"):
        describe(trunk)


@pytest.mark.parametrize("change", [{"kind": "Module.forward"}, {"kind": "os"}])
def test_a_description_runs_nothing_but_torch(change: dict[str, str]) -> None:
    description = describe(convolutionalize(Plain(), (24, 24)).trunk([4, 8]))
    description["layers"]["conv1"] |= change
    with pytest.raises(ValueError, match=r"is no layer of torch.nn"):
        build(description)
    description = describe(convolutionalize(Plain(), (24, 24)).trunk([4, 8]))
    call = next(node for node in description["nodes"] if node["op"] == "call_function")
    for target in ("os:system", "torch:load", "torch:hub", "torch:_C", "operator:methodcaller", "attribute:__class__"):
        call["target"] = target
        with pytest.raises(ValueError, match="is no function that computes"):
            build(description)


def test_hidden_layers_keep_the_size_of_their_map() -> None:
    model = create("fcn32s-torchvision:alexnet", 2)
    assert model.trunk.get_submodule("classifier.1").kernel_size == (6, 6)
    assert model.eval()(torch.rand(1, 3, 40, 50)).shape == (1, 2, 40, 50)


def test_trunks_share_weights_but_no_paddings() -> None:
    """Two trunks of one conversion do not see each other's paddings."""
    dense = convolutionalize(Plain(), (24, 24))
    trunk = dense.trunk([8])
    assert trunk.get_submodule("hidden").padding == (1, 1)
    assert dense.network.get_submodule("hidden").padding == (0, 0)
