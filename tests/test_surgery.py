"""Laws of network surgery."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fullyconv.geometry import Grid
from fullyconv.surgery import bilinear_kernel, conv_to_linear, linear_to_conv, trace, transplant


def test_convolution_equals_the_linear_layer_it_was():
    linear = nn.Linear(5 * 3 * 2, 4).double()
    maps = torch.randn(6, 5, 3, 2, dtype=torch.float64)
    assert torch.allclose(linear_to_conv(linear, (3, 2))(maps).flatten(1), linear(maps.flatten(1)), atol=1e-12)


def test_convolution_slides_the_linear_layer():
    linear = nn.Linear(2 * 3 * 3, 4).double()
    maps = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    dense = linear_to_conv(linear, (3, 3))(maps)
    assert dense.shape == (1, 4, 3, 4)
    assert torch.allclose(dense[0, :, 2, 1], linear(maps[:, :, 2:5, 1:4].flatten(1))[0], atol=1e-12)


def test_weights_survive_the_round_trip():
    linear = nn.Linear(18, 4, bias=False)
    back = conv_to_linear(linear_to_conv(linear, (3, 3)))
    assert torch.equal(back.weight, linear.weight)
    assert back.bias is None


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


@pytest.mark.parametrize("kernel_size", [3, 4, 16, 32, 63, 64])
def test_bilinear_kernel_is_the_authors(kernel_size):
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    expected = [
        [(1 - abs(row - center) / factor) * (1 - abs(column - center) / factor) for column in range(kernel_size)]
        for row in range(kernel_size)
    ]
    assert torch.allclose(bilinear_kernel(kernel_size), torch.tensor(expected, dtype=torch.float64), atol=1e-15)


def test_bilinear_deconvolution_is_interpolation_inside():
    scores = torch.randn(1, 1, 6, 7, dtype=torch.float64)
    kernel = bilinear_kernel(8)[None, None]
    upscored = F.conv_transpose2d(scores, kernel, stride=4, padding=2)
    expected = F.interpolate(scores, scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.allclose(upscored[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-12)
