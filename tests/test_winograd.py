"""Fewer multiplications give the same convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fullyconv.runtimes import winograd
from fullyconv.runtimes.fusion import packed_graph
from fullyconv.runtimes.winograd import WinogradConv


@pytest.mark.parametrize("size", [(3, 3), (6, 6), (9, 14), (23, 16)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 2)])
def test_it_equals_torchs_convolution_at_every_size(
    size: tuple[int, int], padding: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "BUFFER", 36 * 128 * 5)  # five tiles in a block
    torch.manual_seed(0)
    image, weight, bias = torch.randn(2, 64, *size), torch.randn(128, 64, 3, 3), torch.randn(128)
    expected = F.conv2d(image, weight, bias, padding=padding)
    for rectified in (False, True):
        result = WinogradConv(weight, bias, padding, rectified=rectified)(image)
        wanted = expected.relu() if rectified else expected
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert (result - wanted).abs().max() < 2e-5 * wanted.abs().max()


@torch.no_grad()
def test_wide_layers_of_large_maps_take_it_with_their_norm_and_activation() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 128, 1), nn.Conv2d(128, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU())
    plain = fx.symbolic_trace(layers.eval())
    packed = packed_graph(plain, 1, torch.float32)
    assert [type(layer) for layer in packed.children()][-1] is WinogradConv
    image = torch.randn(1, 1, 10, 11)
    assert torch.allclose(packed(image), plain(image), rtol=0, atol=2e-5 * float(plain(image).max()))
