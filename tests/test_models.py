"""Laws of the networks: sizes, alignment, fusion, stages."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid
from fullyconv.models import FCN, Upscore, _least_size, create, start_from
from fullyconv.models.classifiers import _from_hub, classifier
from fullyconv.surgery import NotConvertible, convolutionalize, trace

TINY = "fcn8s-test_resnet"


def with_random_scores(model: FCN) -> FCN:
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize("name", [TINY, "fcn32s-test_resnet", "fcn4s-test_convnext"])
@pytest.mark.parametrize("size", [(1, 1), (33, 7), (64, 96)])
def test_logits_are_as_large_as_the_image(name, size):
    model = create(name, 5).eval()
    assert model(torch.rand(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_networks_read_any_number_of_bands(channels):
    model = create(TINY, 2, channels=channels).eval()
    assert model(torch.rand(1, channels, 40, 40)).shape == (1, 2, 40, 40)


def test_a_new_network_scores_nothing():
    assert torch.equal(create(TINY, 4).eval()(torch.rand(1, 3, 50, 60)), torch.zeros(1, 4, 50, 60))


def test_strides_name_the_taps():
    for stride, count in [(32, 1), (16, 2), (8, 3), (4, 4)]:
        model = create(f"fcn{stride}s-test_resnet", 2)
        assert [grid.stride for grid in model.grids] == [stride * 2**level for level in range(count)]


def test_a_resnets_scores_lie_on_its_own_grid():
    model = create("fcn8s-resnet18", 2)
    assert [(grid.stride, grid.start) for grid in model.grids] == [(8, 0), (16, 0), (32, 0)]
    assert model.coarsest.field == 435


def test_centred_alignment_is_what_interpolation_assumes():
    model = with_random_scores(create("fcn32s-test_resnet", 3, alignment="centred"))
    image = torch.rand(1, 3, 64, 96)
    expected = F.interpolate(model.scores(image), size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.allclose(model(image), expected, atol=1e-5)


class Listed(nn.Module):
    """A chain of layers as a trunk of one tap."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image)]


class OneTap(nn.Module):
    """A trunk of one convolution, for networks whose answer can be seen by eye."""

    def __init__(self, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, kernel_size, stride, padding, bias=False)
        nn.init.constant_(self.conv.weight, 1 / kernel_size**2)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.conv(image)]


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(7, 4, 3), (8, 4, 2), (4, 4, 0), (5, 3, 0)])
def test_a_ramp_comes_back_in_its_place(kernel_size, stride, padding):
    trunk = OneTap(kernel_size, stride, padding)
    model = FCN(trunk, trace(trunk, 1), 1, mean=[0.0], std=[1.0]).eval()
    nn.init.ones_(model.score_layers["stride" + str(model.grid.stride)].weight)
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    inner = slice(16, 48)
    assert torch.allclose(model(ramp)[..., inner, inner], ramp[..., inner, inner], atol=1e-5)


GRIDS = [
    (Fraction(0), Fraction(0)),
    (Fraction(7, 2), Fraction(3, 2)),
    (Fraction(6), Fraction(2)),
    (Fraction(-3), Fraction(1)),
]


@pytest.mark.parametrize(("coarse_start", "fine_start"), GRIDS)
def test_upscoring_carries_a_ramp_from_grid_to_grid(coarse_start, fine_start):
    coarse, fine = Grid(Fraction(8), coarse_start), Grid(Fraction(4), fine_start)
    positions = torch.tensor([float(coarse.start + 8 * cell) for cell in range(9)])
    ramp = positions.expand(1, 1, 9, 9).contiguous()
    out = Upscore(1, coarse, fine)(ramp, (17, 17))[0, 0, 8]
    expected = torch.tensor([float(fine.start + 4 * cell) for cell in range(17)]).clamp(positions[0], positions[-1])
    assert torch.allclose(out, expected, atol=1e-5)


def test_upscoring_of_centred_grids_is_interpolation():
    coarse, fine = Grid(Fraction(4), Fraction(3, 2)), Grid(Fraction(2), Fraction(1, 2))
    scores = torch.randn(2, 3, 5, 6)
    expected = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(Upscore(3, coarse, fine)(scores, (10, 12)), expected, atol=1e-6)


def test_only_learned_upscoring_is_trained():
    fixed, learned = create(TINY, 2), create(TINY, 2, upscore="learned")
    names = {name for name, _ in learned.named_parameters()} - {name for name, _ in fixed.named_parameters()}
    assert names == {"upscore_layers.stride16.weight", "upscore_layers.stride32.weight"}
    image = torch.rand(1, 3, 64, 64)
    learned.load_state_dict(fixed.state_dict(), strict=False)
    assert torch.equal(fixed.eval()(image), learned.eval()(image))


def test_each_stage_begins_with_the_prediction_of_the_last(tmp_path):
    from safetensors.torch import save_file

    coarse = with_random_scores(create("fcn32s-test_resnet", 3))
    save_file({f"x.{name}": tensor for name, tensor in coarse.state_dict().items()}, tmp_path / "other.safetensors")
    save_file(coarse.state_dict(), tmp_path / "coarse.safetensors")
    fine = create("fcn16s-test_resnet", 3)
    start_from(fine, tmp_path / "coarse.safetensors")
    image = torch.rand(1, 3, 96, 96)
    upscored = fine.upscore_layers["stride32"](coarse.scores(image), (6, 6))
    assert torch.allclose(fine.eval().scores(image), upscored, atol=1e-5)
    with pytest.raises(FullyconvError, match="SEG-M005"):
        start_from(fine, tmp_path / "other.safetensors")


def test_a_classifiers_weights_are_taken_over(tmp_path):
    import timm

    classifier = timm.create_model("test_resnet")
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "classifier.pth")
    model = create(TINY, 3)
    taken = start_from(model, tmp_path / "classifier.pth")
    assert torch.equal(model.trunk.get_submodule("conv1.0").weight, classifier.conv1[0].weight)
    assert any(name.startswith(("fc", "head")) for name in taken.dropped)


def test_unreadable_weights_are_refused_by_name(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"not a zip")
    with pytest.raises(FullyconvError, match=r"SEG-M004.*broken\.pth"):
        start_from(create(TINY, 3), tmp_path / "broken.pth")


def test_unknown_names_get_the_nearest():
    with pytest.raises(FullyconvError, match=r"SEG-M001.*fcn8s-resnet18"):
        create("fcn8-resnet18", 2)
    with pytest.raises(FullyconvError, match=r"SEG-M001.*fcn8s-resnet50"):
        create("resnet50", 2)
    with pytest.raises(FullyconvError, match=r"SEG-M001.*resnet18"):
        create("fcn8s-resnet81", 2)


def test_a_missing_stride_is_refused_with_one_that_exists():
    dense = convolutionalize(classifier("test_resnet").network, (160, 160))
    with pytest.raises(NotConvertible, match=r"maps at strides .*8, 16, 32, not at 3, 5; fcn32s is possible"):
        dense.trunk([3, 5])


def test_a_transformer_has_the_stride_of_its_patches():
    model = with_random_scores(create("fcn16s-test_vit", 2)).eval()
    (grid,) = model.grids
    assert (grid.stride, grid.start, model.scores(torch.rand(1, 3, 65, 40)).shape) == (16, 7.5, (1, 2, 5, 3))
    assert model(torch.rand(1, 3, 65, 40)).shape == (1, 2, 65, 40)
    assert model.global_operations
    with pytest.raises(FullyconvError, match=r"SEG-M002.*one stride, 16.*fcn16s is possible"):
        create("fcn8s-test_vit", 2)


def test_a_trunk_without_padding_has_a_least_size():
    trunk = nn.Sequential(nn.Conv2d(3, 4, 9, stride=4), nn.Conv2d(4, 4, 9, stride=2))
    assert _least_size(trunk, 3, stride=8) == 48
    model = FCN(Listed(trunk), trace(Listed(trunk)), 2, mean=[0.0] * 3, std=[1.0] * 3, least_size=48)
    assert model.eval()(torch.rand(1, 3, 1, 5)).shape == (1, 2, 1, 5)


def test_an_unreachable_hub_is_said_with_the_way_out(monkeypatch):
    import timm

    reachable = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            raise OSError("no route to host")
        return reachable(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FullyconvError, match=r"SEG-M003.*--pretrained FILE.*--pretrained none"):
        create(TINY, 2, pretrained=True)


def test_an_unreachable_vgg16_is_said_too(monkeypatch):
    def offline(weights: str | None) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models.vgg16", offline)
    with pytest.raises(FullyconvError, match=r"SEG-M003.*vgg16"):
        _from_hub("vgg16")
    with pytest.raises(FullyconvError, match=r"SEG-M003.*--pretrained FILE"):
        _from_hub("alexnet")
