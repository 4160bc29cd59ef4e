"""What is reused of a blank image is what the plain network computes, at every size."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from thin import make_thin, trunk_of
from torch import Tensor, fx, nn

from fullyconv.runtimes import borders
from fullyconv.runtimes.borders import BorderReuse, reuse_borders
from fullyconv.runtimes.fusion import packed_graph

STRIDES = {"vgg16": (8, 16, 32), "alexnet": (16, 32), "googlenet": (8, 16, 32)}
# Each phase of the stride of 32 down and across, from one pixel on, with one side whole and the other not.
SIZES = [(1, 1), (2, 70), (33, 200), (64, 31), (101, 75), (230, 34)]


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_thin(patch, *STRIDES)
        yield


def caffe_trunk(name: str) -> fx.GraphModule:
    """A trunk that pads by 100 pixels, with biases, without which a blank image would be zero throughout."""
    torch.manual_seed(0)
    trunk = trunk_of(name, STRIDES[name], "caffe").eval()
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.3)
    assert isinstance(trunk, fx.GraphModule)
    return trunk


def image(size: tuple[int, int], count: int = 1) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_same(maps: list[Tensor], expected: list[Tensor]) -> None:
    for found, wanted in zip(maps, expected, strict=True):
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("cheap", [0, 300])
@torch.no_grad()
def test_maps_equal_the_plain_trunks_at_every_size(name: str, cheap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borders, "CHEAP", cheap)
    trunk = caffe_trunk(name)
    reused = reuse_borders(trunk)
    for size in SIZES:
        assert_same(reused(image(size)), trunk(image(size)))


@pytest.mark.parametrize("name", STRIDES)
@torch.no_grad()
def test_maps_of_packed_layers_equal_the_plain_trunks(name: str) -> None:
    trunk = caffe_trunk(name)
    reused = reuse_borders(packed_graph(trunk, 3, torch.float32))
    for size in SIZES:
        batch = image(size, count=2)
        assert_same(reused(batch.to(memory_format=torch.channels_last)), trunk(batch))


@torch.no_grad()
def test_framed_layers_compute_the_cells_that_see_the_image_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borders, "CHEAP", 0)
    trunk, sides = caffe_trunk("vgg16"), []
    reused = reuse_borders(trunk)
    reused(image((500, 500)))  # the blank image is computed once
    plain = F.conv2d

    def conv2d(*args: Any) -> Tensor:
        result = plain(*args)
        sides.append(result.shape[2])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", conv2d)
        reused(image((500, 500)))
    # Two cells more with each 3 x 3 convolution, and half of them behind a pool; conv5_3 and fc6 see it everywhere.
    assert sides[:4] == [502, 504, 255, 257]
    assert sides[-3:] == [44, 16, 16]


@torch.no_grad()
def test_sizes_of_one_phase_share_a_small_blank_image() -> None:
    reused = reuse_borders(caffe_trunk("vgg16"))
    assert isinstance(reused, BorderReuse)
    assert {reused.plan(*size)[1] for size in ((101, 75), (229, 139), (997, 3019))} == {(5, 11)}


def test_a_trunk_that_pads_by_half_its_kernel_is_given_back() -> None:
    trunk = trunk_of("vgg16", STRIDES["vgg16"], "same").eval()
    assert reuse_borders(trunk) is trunk  # type: ignore[arg-type]
