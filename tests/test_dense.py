"""Laws of dense output: a map is its patches, and shift-and-stitch is the à trous network."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from thin import trunk_of
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid
from fullyconv.models.classic import Geometry
from fullyconv.models.dense import a_trous, patches, rarefied, shift_and_stitch
from fullyconv.surgery import blueprint, trace

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
PRECISIONS = pytest.mark.parametrize("dtype", TOLERANCE)


def plain() -> nn.Sequential:
    """Convolutions with and without stride, both kinds of pools, an even and an odd kernel: no padding, stride 8."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, dilation=2, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AvgPool2d(3, 2),
        nn.Conv2d(8, 5, 2),
    )


class Branches(nn.Module):
    """A net without padding whose branches part and join: convolved and pooled maps side by side, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2)
        self.reduced = nn.Conv2d(6, 4, 3, 2)
        self.pooled = nn.MaxPool2d(3, 2)
        self.wide = nn.Conv2d(10, 10, 3)
        self.spread = nn.Conv2d(10, 10, 2, dilation=2)
        self.score = nn.Conv2d(10, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        image = self.stem(image).relu()
        image = torch.cat([self.reduced(image), self.pooled(image)], 1).relu()
        return self.score(self.wide(image) + self.spread(image))


def alexnet_like() -> nn.Sequential:
    """CaffeNet's kernels, strides, groups and normalisation, without padding and with few channels."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 11, 4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.LocalResponseNorm(5),
        nn.Conv2d(4, 8, 5, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.LocalResponseNorm(5),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 5, 6),
    )


def vgg(*blocks: int, kernel_size: int) -> nn.Sequential:
    """Torchvision's VGG without padding and with few channels: so many convolutions per pool, then the scores."""
    layers = [layer for depth in blocks for layer in (*[4] * depth, "M")]
    network = make_layers(layers)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
    return network.append(nn.Conv2d(4, 5, kernel_size))


def vgg_like() -> nn.Sequential:
    return vgg(2, 2, kernel_size=3)


def vgg16_like() -> nn.Sequential:
    return vgg(2, 2, 3, 3, 3, kernel_size=7)


NETWORKS = pytest.mark.parametrize("make", [plain, Branches, vgg_like])


def sharpened(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The network in evaluation, its scores of order 1, so that an absolute tolerance means something."""
    network.eval().to(dtype)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return network


def grid_of(network: nn.Module) -> Grid:
    return trace(blueprint(network), size=(480, 512)).grids[0]


@PRECISIONS
@NETWORKS
def test_every_cell_is_the_network_on_its_patch(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    network = sharpened(make(), dtype)
    grid = grid_of(network)
    field = int(grid.field)
    image = torch.rand(2, 3, field + 17, field + 8, dtype=dtype)
    scores = network(image)
    cut = patches(image, grid)
    assert cut.shape == (2, *scores.shape[2:], 3, field, field)
    alone = network(cut.flatten(0, 2)).view(2, *scores.shape[2:], 5).permute(0, 3, 1, 2)
    assert torch.allclose(alone, scores, rtol=0, atol=TOLERANCE[dtype] * scores.abs().max().item())


@NETWORKS
def test_training_on_an_image_is_training_on_all_its_patches(make: Callable[[], nn.Module]) -> None:
    network = sharpened(make())
    grid = grid_of(network)
    image = torch.rand(2, 3, int(grid.field) + 17, int(grid.field) + 8, dtype=torch.float64)
    scores = network(image)
    target = torch.randint(0, 5, (2, *scores.shape[2:]))
    whole = F.cross_entropy(scores, target, reduction="sum")
    of_whole = torch.autograd.grad(whole, list(network.parameters()))
    alone = network(patches(image, grid).flatten(0, 2)).flatten(1)
    parts = F.cross_entropy(alone, target.flatten(), reduction="sum")
    of_parts = torch.autograd.grad(parts, list(network.parameters()))
    assert abs(whole - parts) < 1e-10
    for ours, theirs in zip(of_parts, of_whole, strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm()


def test_a_network_that_pads_is_no_sliding_classifier() -> None:
    network = sharpened(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(6, 5, 5, padding=2)))
    grid = grid_of(network)
    image = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    (row, *_), size = grid.inside(24), int(grid.field)
    first = int(grid.first + row * grid.stride)
    patch = image[:, :, first : first + size, first : first + size]
    assert torch.equal(patch, patches(image, grid)[:, 0, 0])
    cell = network(image)[0, :, row, row]
    middle = network(patch)[0, :, 3, 3]
    assert (cell - middle).norm() > 0.1 * cell.norm()


def test_an_image_smaller_than_the_receptive_field_has_no_patches() -> None:
    with pytest.raises(ValueError, match=r"no cell sees only pixels of an image of 8 x 6 pixels: .* 7 x 7"):
        patches(torch.zeros(1, 3, 8, 6), Grid().convolve(7))


@PRECISIONS
@NETWORKS
@pytest.mark.parametrize("extra", [(0, 0), (1, 6), (7, 12)])
def test_shift_and_stitch_is_a_trous(make: Callable[[], nn.Module], extra: tuple[int, int], dtype: torch.dtype) -> None:
    network = sharpened(make(), dtype)
    grid = grid_of(network)
    height, width = (int(grid.field) + more for more in extra)
    image = torch.rand(2, 3, height, width, dtype=dtype)
    stitched = shift_and_stitch(network, image, int(grid.stride))
    assert stitched.shape == (2, 5, extra[0] + 1, extra[1] + 1)
    assert torch.allclose(
        a_trous(network)(image), stitched, rtol=0, atol=TOLERANCE[dtype] * stitched.abs().max().item()
    )


@pytest.mark.parametrize(("make", "field"), [(alexnet_like, 355), (vgg16_like, 404)])
def test_every_dense_score_of_the_papers_nets_is_the_network_on_its_patch(
    make: Callable[[], nn.Module], field: int
) -> None:
    network = sharpened(make())
    dense = a_trous(network)
    assert (grid_of(network).field, grid_of(network).stride) == (field, 32)
    image = torch.rand(1, 3, field + 2, field + 1, dtype=torch.float64)
    scores = dense(image)
    alone = network(patches(image, grid_of(dense)).flatten(0, 2)).view(1, 3, 2, 5).permute(0, 3, 1, 2)
    assert torch.allclose(scores, alone, rtol=0, atol=1e-12 * alone.abs().max().item())


@NETWORKS
def test_every_so_manieth_dense_score_is_the_networks_own(make: Callable[[], nn.Module]) -> None:
    network = sharpened(make())
    stride = int(grid_of(network).stride)
    image = torch.rand(1, 3, 61, 70, dtype=torch.float64)
    assert torch.equal(shift_and_stitch(network, image, stride)[:, :, ::stride, ::stride], network(image))


class Padded(nn.Module):
    """A residual net with padding, as torchvision's: stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.shortcut = nn.Conv2d(6, 8, 1, 2)
        self.block = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.score = nn.Conv2d(8, 5, 3, padding="same")

    def forward(self, image: Tensor) -> Tensor:
        image = self.stem(image)
        return self.score((self.shortcut(image) + self.block(image)).relu())


def test_with_padding_they_are_equal_where_the_receptive_field_touches_none() -> None:
    network = sharpened(Padded())
    grid = grid_of(network)
    image = torch.rand(1, 3, 96, 101, dtype=torch.float64)
    stitched, dense = shift_and_stitch(network, image, 8), a_trous(network)(image)
    assert stitched.shape == dense.shape == (1, 5, *image.shape[2:])
    rows, columns = (Grid(start=grid.start, field=grid.field).inside(size) for size in image.shape[2:])
    inner = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
    assert min(len(rows), len(columns)) > 10
    assert torch.allclose(stitched[:, :, *inner], dense[:, :, *inner], rtol=0, atol=1e-12 * stitched.abs().max().item())
    assert (stitched - dense).abs().amax((0, 1))[: rows.start].max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (8, 9)])
def test_a_network_that_takes_any_image_is_stitched_over_any_image(size: tuple[int, int]) -> None:
    network = sharpened(Padded())
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    assert shift_and_stitch(network, image, 8).shape == a_trous(network)(image).shape == (1, 5, *size)


def test_kernels_that_are_not_square_are_rarefied_along_both_axes() -> None:
    network = sharpened(
        nn.Sequential(
            nn.Conv2d(3, 4, (1, 3), 2), nn.MaxPool2d((3, 2), 2), nn.AvgPool2d((1, 3), 1), nn.Conv2d(4, 5, (3, 2))
        )
    )
    image = torch.rand(1, 3, 24, 27, dtype=torch.float64)
    assert torch.allclose(a_trous(network)(image), shift_and_stitch(network, image, 4), rtol=0, atol=1e-12)


def test_cells_that_ceil_rounding_lets_over_the_border_are_left_out() -> None:
    network = sharpened(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(4, 5, 2)))
    image = torch.rand(1, 3, 14, 15, dtype=torch.float64)
    stitched, dense = shift_and_stitch(network, image, 2), a_trous(network)(image)
    assert dense.shape == (1, 5, 8, 9)
    assert stitched.shape == (1, 5, 9, 10)
    assert torch.allclose(dense, stitched[:, :, :8, :9], rtol=0, atol=1e-12)


def test_a_factor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="factor must be the network's stride"):
        shift_and_stitch(nn.Identity(), torch.zeros(1, 3, 4, 4), 0)


def test_an_a_trous_network_has_the_weights_of_its_own_and_stride_one_everywhere() -> None:
    network = sharpened(plain())
    dense = a_trous(network)
    assert all(torch.equal(tensor, dense.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert not {id(tensor) for tensor in dense.parameters()} & {id(tensor) for tensor in network.parameters()}
    before, after = grid_of(network), grid_of(dense)
    assert (after.stride, after.start, after.field) == (1, before.start, before.field)
    assert [layer.stride for layer in network.modules() if isinstance(layer, nn.Conv2d)] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "googlenet"])
@pytest.mark.parametrize("geometry", ["same", "caffe"])
def test_the_papers_trunks_become_dense_at_every_tap(name: str, geometry: Geometry) -> None:
    with torch.device("meta"):
        trunk = trunk_of(name, (8, 16, 32), geometry)
    taps, dense = (trace(network, size=(1024, 1280)).grids for network in (trunk.eval(), a_trous(trunk)))
    assert [(tap.stride, tap.start, tap.field) for tap in dense] == [(1, tap.start, tap.field) for tap in taps]


def test_several_outputs_become_dense_together() -> None:
    class Taps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(nn.Conv2d(3, 3, 3, 2) for _ in range(3))

        def forward(self, image: Tensor) -> list[Tensor]:
            maps = [image]
            for stage in self.stages:
                maps.append(stage(maps[-1]))
            return maps[1:]

    network = sharpened(Taps())
    image = torch.rand(1, 3, 20, 21, dtype=torch.float64)
    for level, dense in enumerate(a_trous(network)(image)):
        stitched = shift_and_stitch(lambda image, level=level: network(image)[level], image, 2 ** (level + 1))
        assert torch.allclose(dense, stitched, rtol=0, atol=1e-12)


def test_a_layer_that_is_used_twice_at_one_stride_is_dilated_once() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AvgPool2d(2)
            self.again = nn.Conv2d(3, 3, 3)
            self.same = self.again

        def forward(self, image: Tensor) -> Tensor:
            return self.same(self.again(self.pool(image)))

    network = sharpened(Recurrent())
    image = torch.rand(1, 3, 14, 15, dtype=torch.float64)
    assert torch.allclose(a_trous(network)(image), shift_and_stitch(network, image, 2), rtol=0, atol=1e-12)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.halve = nn.Conv2d(3, 3, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.halve(self.halve(image))


class Functional(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return F.max_pool2d(image, 2)


class Excited(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * image.mean((2, 3), keepdim=True).sigmoid()


class Uneven(nn.Module):
    """ResNet-D's shortcut: an even pool beside an odd kernel, whose maps are alike only after rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.pool = nn.Conv2d(3, 3, 3, 2, 1), nn.AvgPool2d(2)

    def forward(self, image: Tensor) -> Tensor:
        return self.block(image) + self.pool(image)


class PaddedByStride(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        missing = self.kernel_size[0] - self.stride[0]
        return super().forward(F.pad(input, (missing // 2, missing - missing // 2) * 2))


STRIDED = nn.Conv2d(3, 3, 2, 2)
REFUSED = [
    (Functional(), "layer body: it calls max_pool2d itself; give it an nn.MaxPool2d"),
    (Excited(), "layer body: mean looks at the whole map"),
    (nn.Sequential(STRIDED, nn.Flatten()), "layer body.1: flatten looks at the whole map"),
    (
        nn.Sequential(STRIDED, nn.ConvTranspose2d(3, 3, 2, 2)),
        "layer body.1: there is no dense form of conv_transpose2d",
    ),
    (nn.Sequential(STRIDED, nn.Upsample(scale_factor=2)), "layer body.1: interpolate looks at the whole map"),
    (nn.Sequential(STRIDED, nn.ReflectionPad2d(1)), "layer body.1: there is no dense form of pad at stride 2"),
    (nn.Sequential(STRIDED, nn.AvgPool2d(3, 1, 1, count_include_pad=False)), "layer body.1: its averages leave out"),
    (nn.Conv2d(3, 3, 3, (2, 1)), "layer body: its strides differ, 2 down and 1 across"),
    (Twice(), "layer body.halve: it is used at strides 1 and 2"),
    (Uneven(), "with strides of 1, layer body: "),
    (PaddedByStride(3, 3, 3, 2), "it chooses its padding by its stride"),
    (nn.Conv2d(4, 3, 3), "as it is, layer body: "),
]


@pytest.mark.parametrize(("body", "told"), REFUSED)
def test_what_cannot_be_made_dense_is_refused_by_the_name_of_the_layer(body: nn.Module, told: str) -> None:
    with pytest.raises(FullyconvError, match="SEG-M030") as refusal:
        a_trous(Named(body))
    assert told in str(refusal.value)


class Named(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
def test_a_rarefied_kernel_is_dilation(size: tuple[int, int], factor: int) -> None:
    # Whole numbers, so that no sum is rounded, in whatever order it is taken.
    kernel = torch.randint(-99, 100, (4, 3, *size)).double()
    image = torch.randint(-99, 100, (2, 3, 40, 41)).double()
    assert torch.equal(F.conv2d(image, rarefied(kernel, factor)), F.conv2d(image, kernel, dilation=factor))


def test_a_rarefied_kernel_by_hand() -> None:
    kernel = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert rarefied(kernel, 2).tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 4]]
