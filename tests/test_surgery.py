"""Laws of network surgery."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vgg import make_layers

from fullyconv.geometry import Grid
from fullyconv.surgery import (
    bilinear_kernel,
    blueprint,
    conv_to_linear,
    convolutionalize,
    linear_to_conv,
    trace,
    transplant,
    with_bands,
)


def test_convolution_equals_the_linear_layer_it_was():
    linear = nn.Linear(5 * 3 * 2, 4).double()
    maps = torch.randn(6, 5, 3, 2, dtype=torch.float64)
    assert torch.allclose(linear_to_conv(linear, (3, 2))(maps).flatten(1), linear(maps.flatten(1)), rtol=0, atol=1e-12)


def test_convolution_slides_the_linear_layer():
    linear = nn.Linear(2 * 3 * 3, 4).double()
    maps = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    dense = linear_to_conv(linear, (3, 3))(maps)
    assert dense.shape == (1, 4, 3, 4)
    assert torch.allclose(dense[0, :, 2, 1], linear(maps[:, :, 2:5, 1:4].flatten(1))[0], rtol=0, atol=1e-12)


def vgg16() -> nn.Sequential:
    """VGG16's layers with few channels: a head over 7 x 7 cells."""
    widths = [width for depth in (2, 2, 3, 3, 3) for width in (*[4] * depth, "M")]
    head = (nn.Linear(4 * 7 * 7, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10))
    return nn.Sequential(*make_layers(widths), nn.Flatten(), *head)


def alexnet() -> nn.Sequential:
    """AlexNet's kernels and strides with few channels: a head over 6 x 6 cells."""
    features = (nn.Conv2d(3, 4, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 5, padding=2), nn.ReLU())
    pools = (nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(3, 2))
    return nn.Sequential(*features, *pools, nn.Flatten(), nn.Linear(4 * 6 * 6, 16), nn.ReLU(), nn.Linear(16, 10))


def averaged() -> nn.Sequential:
    """A head over one cell, as a ResNet's."""
    features = (nn.Conv2d(3, 8, 7, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(28))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("make", "cells"), [(vgg16, 7), (alexnet, 6), (averaged, 1)])
def test_a_classifier_in_convolutions_gives_its_logits_at_its_own_size(make, cells, dtype, tolerance):
    classifier = make().to(dtype).eval()
    for layer in classifier:
        if hasattr(layer, "weight"):
            nn.init.kaiming_normal_(layer.weight)  # so that the image is still seen in the logits
    dense = convolutionalize(classifier, (224, 224)).eval()
    kernels = [layer.kernel_size for layer in dense.modules() if isinstance(layer, nn.Conv2d)]
    assert (cells, cells) in kernels
    image = torch.rand(2, 3, 224, 224, dtype=dtype)
    logits, map_of_one = classifier(image), dense(image)
    assert map_of_one.shape == (2, 10, 1, 1)
    assert torch.allclose(map_of_one[:, :, 0, 0], logits, rtol=0, atol=tolerance * logits.abs().max().item())


@pytest.mark.parametrize("bias", [True, False])
def test_weights_survive_the_round_trip(bias):
    linear = nn.Linear(18, 4, bias=bias).double()
    back = conv_to_linear(linear_to_conv(linear, (3, 3)))
    assert torch.equal(back.weight, linear.weight)
    assert torch.equal(back.bias, linear.bias) if bias else back.bias is None


def test_a_linear_layer_that_reads_no_whole_map_is_refused():
    with pytest.raises(ValueError, match="cannot read maps of 7 x 7"):
        linear_to_conv(nn.Linear(100, 4), (7, 7))


def test_transplant_reshapes_and_names_what_it_did():
    target = nn.ModuleDict({"fc": nn.Conv2d(2, 3, 3), "score": nn.Conv2d(3, 5, 1)})
    source = {"fc.weight": torch.randn(3, 18), "fc.bias": torch.randn(3), "score.weight": torch.randn(7, 3)}
    done = transplant(target, source)
    assert torch.equal(target["fc"].weight.flatten(1), source["fc.weight"])
    assert done.kept == ("fc.weight", "fc.bias")
    assert done.dropped == ("score.weight",)
    assert done.missing == ("score.weight", "score.bias")


class Branches(nn.Module):
    """A network with all that a trace must follow: padding, pools, a residual sum, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 7, stride=2, padding=3)
        self.wide = nn.Conv2d(4, 4, 5, padding=2)
        self.last = nn.Linear(4, 6)
        self.transposed = nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        first = F.max_pool2d(self.stem(image).relu(), 2)
        joined = first + self.wide(first)
        last = self.last(joined.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return [first, last, self.transposed(last)]


def test_further_bands_get_the_mean_of_the_kernels_that_stay():
    """Checklist E8."""
    weight = torch.randn(4, 3, 3, 3)
    wide = with_bands(weight, 5)
    assert torch.equal(wide[:, :3], weight)
    assert torch.equal(wide[:, 3], weight.mean(1))
    assert torch.equal(wide[:, 4], weight.mean(1))
    assert torch.equal(with_bands(weight, 3), weight)


@pytest.mark.parametrize("bands", [1, 2])
def test_fewer_bands_answer_grey_as_before(bands):
    weight, grey = torch.randn(4, 3, 3, 3), torch.rand(1, 1, 8, 8)
    before = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    after = F.conv2d(grey.expand(-1, bands, -1, -1), with_bands(weight, bands))
    assert torch.allclose(after, before, atol=1e-5)


def test_trace_composes_the_grids_of_all_outputs():
    first, last, transposed = trace(Branches()).grids
    expected = Grid().convolve(7, 2, 3).convolve(2, 2)
    assert first == expected
    assert last == expected.convolve(5, 1, 2)
    assert (transposed.stride, transposed.start) == (2, 0)


def test_trace_agrees_with_the_gradient_of_a_cell():
    network = Branches()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    first = trace(network).grids[0]
    network(image)[0][0, :, 5, 5].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum((0, 1)).nonzero().flatten()
    assert int(seen[0]) >= first.first + 5 * first.stride
    assert int(seen[-1]) <= first.last + 5 * first.stride


def test_trace_names_global_operations():
    def squeeze_and_excite(image: torch.Tensor) -> list[torch.Tensor]:
        return [image * image.mean((2, 3), keepdim=True)]

    assert trace(squeeze_and_excite).global_operations == ("mean",)


class Calling(nn.Module):
    """Calls a function on the map of a convolution."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3, 2, 1), function

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(image))


def in_channels_last(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda maps: function(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


MIXING = {
    "a group norm": nn.GroupNorm(2, 4),
    "an instance norm": nn.InstanceNorm2d(4),
    "a batch norm without statistics": nn.BatchNorm2d(4, track_running_stats=False),
    "a mean taken from each column": lambda maps: maps - maps.mean(2, keepdim=True),
    "sums along rows": lambda maps: maps.cumsum(3),
    "products along columns": lambda maps: torch.cumprod(maps.exp(), dim=-2),
    "a convolution around the globe": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "a padding around the globe": nn.Sequential(nn.CircularPad2d(1), nn.Conv2d(4, 4, 3)),
    "a roll": lambda maps: maps.roll((32, 40), (2, 3)),
    "a mirror": lambda maps: maps.flip(1, 3),
    "sorted rows": lambda maps: maps.sort()[0],
    "shares of a column": lambda maps: maps.softmax(2),
    "rows of length 1": lambda maps: F.normalize(maps, dim=3),
    "waves": lambda maps: maps + torch.fft.fft2(maps).real,
    "half of the waves": lambda maps: maps + torch.fft.irfft2(torch.fft.rfft2(maps).abs()),
    "shares of a column, channels last": in_channels_last(lambda maps: maps.softmax(1)),
    "a norm of rows, channels last": in_channels_last(lambda maps: F.layer_norm(maps, maps.shape[2:])),
    "attention along rows": in_channels_last(lambda maps: F.scaled_dot_product_attention(maps, maps, maps)),
}
LOCAL = {
    "a batch norm": nn.BatchNorm2d(4),
    "a convolution with its borders mirrored": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "a convolution of single cells": nn.Conv2d(4, 4, 1, padding_mode="circular"),
    "an instance norm with statistics": nn.InstanceNorm2d(4, track_running_stats=True),
    "a norm of channels": in_channels_last(lambda maps: F.layer_norm(maps, maps.shape[3:])),
    "shares of a cell": nn.Softmax(1),
    "shares of a cell, channels last": in_channels_last(lambda maps: F.softmax(maps, dim=-1)),
    "cells of length 1": F.normalize,
    "blue, green, red": lambda maps: maps.flip(1),
    "sums of channels": lambda maps: maps.cumsum(1),
}


@pytest.mark.parametrize("kind", [*MIXING, *LOCAL])
def test_operations_are_global_that_read_other_cells(kind):
    """By the answer to a change of the first corner: the last corner feels it, or does not."""
    network = Calling({**MIXING, **LOCAL}[kind]).double().eval()
    image, changed = torch.rand(2, 1, 3, 128, 160, dtype=torch.float64)
    changed[..., 64:, 80:] = image[..., 64:, 80:]
    cells = (slice(36, 64), slice(44, 80))
    unmoved = torch.allclose(network(image)[..., *cells], network(changed)[..., *cells], rtol=0, atol=1e-9)
    assert unmoved == (kind in LOCAL)
    assert (trace(network).global_operations == ()) == (kind in LOCAL)


def test_trace_tells_which_layer_read_which_grid():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    calls = [(call.layer, call.function, call.grid) for call in trace(network).windows]
    assert calls == [("0", "conv2d", Grid()), ("1.1", "max_pool2d", Grid().convolve(3, 2))]


def test_an_output_that_is_no_map_of_the_image_is_refused_by_the_name_of_the_layer():
    with pytest.raises(ValueError, match=r"output 0 of the network does not follow .*; layer 1: flatten looks at"):
        trace(nn.Sequential(nn.ReLU(), nn.Flatten()))


def test_the_wider_side_of_a_kernel_tells_the_field():
    for kernel_size in [(5, 1), (1, 5)]:
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        for layer in [nn.Conv2d(3, 3, kernel_size, padding=padding), nn.AvgPool2d(kernel_size, 1, padding)]:
            assert trace(layer).grids == (Grid().convolve(5, padding=2),)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3, (2, 1), 1), nn.MaxPool2d((2, 4)), nn.AvgPool2d(2, (2, 1))])
def test_a_layer_whose_strides_differ_is_refused(layer):
    with pytest.raises(ValueError, match=r"^layer 1: its strides differ, 2 down and [14] across"):
        trace(nn.Sequential(nn.ReLU(), layer))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, (3, 1)), nn.ZeroPad2d((1, 1, 0, 0)), nn.AvgPool2d((3, 2), 2)])
def test_a_layer_whose_cells_begin_unlike_down_and_across_is_named(layer):
    assert [call.layer for call in trace(nn.Sequential(nn.ReLU(), layer)).skewed] == ["1"]


def test_a_layer_that_fails_is_named():
    with pytest.raises(ValueError, match=r"^layer 1: .*Kernel size"):
        trace(nn.Sequential(nn.MaxPool2d(64), nn.Conv2d(3, 4, 5)))


def test_a_blueprint_has_the_trace_of_its_network():
    network = Branches().double()
    drawn = trace(blueprint(network), size=(1024, 1280))
    assert drawn.grids == trace(network).grids
    assert drawn.windows == trace(network).windows
    assert {tensor.device.type for tensor in network.parameters()} == {"cpu"}


@pytest.mark.parametrize("kernel_size", [3, 4, 16, 32, 63, 64])
def test_bilinear_kernel_is_the_authors(kernel_size):
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    expected = [
        [(1 - abs(row - center) / factor) * (1 - abs(column - center) / factor) for column in range(kernel_size)]
        for row in range(kernel_size)
    ]
    assert torch.allclose(bilinear_kernel(kernel_size), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_bilinear_deconvolution_is_interpolation_inside(factor):
    scores = torch.randn(1, 1, 6, 7, dtype=torch.float64)
    upscored = F.conv_transpose2d(scores, bilinear_kernel(2 * factor)[None, None], stride=factor, padding=factor // 2)
    expected = F.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = slice(factor // 2, -(factor // 2))
    assert torch.allclose(upscored[..., inner, inner], expected[..., inner, inner], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel_size", "stride"), [(4, 2), (16, 8), (32, 16), (63, 32), (64, 32)])
def test_bilinear_kernels_add_up_to_one_at_every_pixel(kernel_size, stride):
    ones = torch.ones(1, 1, 4, 5, dtype=torch.float64)
    upscored = F.conv_transpose2d(ones, bilinear_kernel(kernel_size)[None, None], stride=stride)
    inner = upscored[..., stride:-stride, stride:-stride]
    assert torch.allclose(inner, torch.ones_like(inner), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 0.0), (torch.float32, 1e-6)])
def test_one_kernel_per_class_equals_the_authors_mostly_empty_matrix_of_kernels(dtype, tolerance):
    classes, scores = 5, torch.randn(2, 5, 4, 6, dtype=dtype)
    kernel = bilinear_kernel(16).to(dtype)
    matrix = torch.zeros(classes, classes, 16, 16, dtype=dtype)
    matrix[range(classes), range(classes)] = kernel
    grouped = F.conv_transpose2d(scores, kernel.expand(classes, 1, 16, 16), stride=8, groups=classes)
    assert torch.allclose(F.conv_transpose2d(scores, matrix, stride=8), grouped, rtol=0, atol=tolerance)


def test_upsampling_in_steps_is_not_upsampling_at_once():
    def upsampled(scores: torch.Tensor, *factors: int) -> torch.Tensor:
        for factor in factors:
            kernel = bilinear_kernel(2 * factor)[None, None]
            scores = F.conv_transpose2d(scores, kernel, stride=factor, padding=factor // 2)
        return scores[..., 64:-64, 64:-64]

    noise = torch.randn(1, 1, 12, 12, dtype=torch.float64)
    once = upsampled(noise, 32)
    for steps in [(2, 16), (2, 2, 8)]:
        difference = (upsampled(noise, *steps) - once).norm() / once.norm()
        assert 0.2 < difference < 0.3
