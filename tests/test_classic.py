"""The paper's networks: the published numbers, and Caffe's arithmetic written out beside ours."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scenes import squares
from thin import trunk_of
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.kernels import upsample
from fullyconv.labels import LabelSet
from fullyconv.models import ClassicFCN, create, start_from
from fullyconv.models.classic import CLASSICS, Classic, ClassicNet, Layers, Rectified, torchvision_names
from fullyconv.prediction import Segmenter, load
from fullyconv.surgery import bilinear_kernel, convolutionalize, trace
from fullyconv.training import train

# Name, learned parameters, crop offsets, receptive field.
PAPER = [
    ("fcn32s-vgg16", 134_346_581, (19,), 404),
    ("fcn16s-vgg16", 134_357_354, (5, 27), 404),
    ("fcn8s-vgg16", 134_362_751, (5, 9, 31), 404),
    ("fcn8s-atonce-vgg16", 134_362_751, (5, 9, 31), 404),
    ("fcn32s-alexnet", 56_954_261, (18,), 355),
]


def blank(name: str, num_classes: int = 21) -> ClassicFCN:
    """A network of the paper whose weights take no time and no memory."""
    match = name.partition("-")
    strides = [stride for stride in (8, 16, 32) if stride >= int(match[0].strip("fcns"))]
    with torch.device("meta"):
        trunk = trunk_of(name.rpartition("-")[2], strides, "caffe").eval()
        placed = trace(trunk)
    return ClassicFCN(trunk, placed, num_classes, mean=[0.0] * 3, std=[1.0] * 3).to("meta")


@pytest.mark.parametrize(("name", "parameters", "offsets", "field"), PAPER)
def test_the_published_numbers_are_derived(name, parameters, offsets, field):
    model = blank(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.crop_offsets == offsets
    assert (model.coarsest.field, model.coarsest.stride) == (field, 32)


def test_googlenet_has_six_million_parameters_and_stride_32():
    model = blank("fcn32s-googlenet")
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(6e6, rel=0.02)
    assert (model.coarsest.field, model.coarsest.stride) == (715, 32)
    assert model.coarsest.convolve(7).field == 907  # the paper's figure counts the average pool that it leaves out


@pytest.mark.parametrize("name", ["fcn32s-alexnet", "fcn32s-vgg16"])
def test_500_pixels_give_the_papers_map_of_ten_cells(name):
    native = {"fcn32s-alexnet": 227, "fcn32s-vgg16": 224}[name]
    with torch.device("meta"):
        dense = convolutionalize(ClassicNet(name.rpartition("-")[2]), (native, native))
        sizes = [dense(torch.zeros(1, 3, size, size)).shape[-1] for size in (native, 500)]
    assert sizes == [1, 10]


@pytest.mark.parametrize("name", [each[0] for each in PAPER])
def test_every_map_covers_every_image(name):
    model = blank(name)
    with torch.device("meta"):
        for size in (1, 2, 31, 32, 33, 100, 227, 255, 256, 257, 480, 499, 500, 600):
            taps = model.trunk(torch.zeros(1, 3, size, size))
            cells, finer = taps[-1].shape[-1], zip(reversed(taps[:-1]), model.crop_offsets, strict=False)
            for fine, crop in finer:
                assert crop + 2 * cells + 2 <= fine.shape[-1]
                cells = 2 * cells + 2
            stride = int(model.grid.stride)
            kernel_size = 63 if "alexnet" in name else 2 * stride
            assert model.crop_offsets[-1] + size <= stride * (cells - 1) + kernel_size


@pytest.mark.parametrize("name", ["fcn16s-googlenet", "fcn8s-googlenet", "fcn16s-alexnet", "fcn8s-alexnet"])
def test_nets_that_the_authors_left_out_cover_every_image_too(name):
    model = blank(name)
    stride = int(model.grid.stride)
    with torch.device("meta"):
        for size in (1, 2, 40, 50, 97, 227, 255, 256, 257):
            cells = model.scores(torch.zeros(1, 3, size, size)).shape[-1]
            assert model.grid.start + stride * (cells - 1) >= size - 1


def miniature(bands: int) -> Layers:
    """VGG16's geometry with few channels."""
    layers: Layers = {}
    for block in range(1, 6):
        layers[f"conv{block}_1"] = Rectified(bands, 6, 3, padding=1)
        layers[f"pool{block}"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        bands = 6
    hidden = {"flatten": nn.Flatten(), "fc6": nn.Linear(6 * 49, 8), "relu6": nn.ReLU(), "drop7": nn.Dropout(0.5)}
    return {**layers, **hidden, "fc8": nn.Linear(8, 10)}


@pytest.fixture(autouse=True)
def _with_a_miniature(monkeypatch):
    monkeypatch.setitem(CLASSICS, "mini", Classic(miniature, 224, CLASSICS["vgg16"].taps))


def mini(name: str, **options: object) -> ClassicFCN:
    torch.manual_seed(0)
    model = create(name, 5, geometry="caffe", **options)
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return model.eval()


def deconvolved(scores: Tensor, factor: int) -> Tensor:
    """Caffe's `Deconvolution` with the authors' kernel: dense, zero off the diagonal."""
    weight = torch.zeros(5, 5, 2 * factor, 2 * factor)
    weight[range(5), range(5)] = bilinear_kernel(2 * factor).float()
    return F.conv_transpose2d(scores, weight, stride=factor)


def cropped(tensor: Tensor, offset: int, like: Tensor) -> Tensor:
    return tensor[:, :, offset : offset + like.shape[2], offset : offset + like.shape[3]]


def by_hand(model: ClassicFCN, image: Tensor) -> Tensor:
    """The authors' network definitions, line by line, with the offsets that stand in their files."""
    taps = model.trunk((image - model.mean) / model.std)
    scores = [layer(tap) for layer, tap in zip(model.score_layers.values(), taps, strict=True)]
    if len(scores) == 1:
        return cropped(deconvolved(scores[0], 32), 19, image)
    upscore2 = deconvolved(scores[-1], 2)
    fuse_pool4 = upscore2 + cropped(scores[-2], 5, upscore2)
    if len(scores) == 2:
        return cropped(deconvolved(fuse_pool4, 16), 27, image)
    upscore_pool4 = deconvolved(fuse_pool4, 2)
    fuse_pool3 = upscore_pool4 + cropped(scores[-3], 9, upscore_pool4)
    return cropped(deconvolved(fuse_pool3, 8), 31, image)


@pytest.mark.parametrize("name", ["fcn32s-mini", "fcn16s-mini", "fcn8s-mini"])
@pytest.mark.parametrize("size", [(1, 1), (47, 65), (64, 33), (97, 128)])
@pytest.mark.parametrize("upscore", ["fixed", "all"])
def test_logits_are_those_of_caffes_arithmetic(name, size, upscore):
    model = mini(name, upscore=upscore)
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = by_hand(model, image)
        assert expected.shape == (2, 5, *size)
        assert torch.allclose(model(image), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_labels_are_those_of_the_logits_and_tiles_change_nothing():
    model = mini("fcn8s-mini")
    segmenter = Segmenter(model, LabelSet(tuple("abcde")))
    image = (torch.rand(3, 300, 410) * 255).to(torch.uint8)
    whole = segmenter(image, tile="none").mask
    with torch.no_grad():
        logits = by_hand(model, image[None].float() / 255)
    best = logits.topk(2, dim=1).values
    clear = (best[0, 0] - best[0, 1] > 1e-4).numpy()
    assert (whole == logits.argmax(1)[0].numpy())[clear].all()
    assert clear.mean() > 0.9
    assert np.array_equal(segmenter(image, tile=64).mask, whole)


def test_at_once_is_a_scale_on_the_finer_taps():
    at_once, plain = mini("fcn8s-atonce-mini"), mini("fcn8s-mini")
    plain.load_state_dict(at_once.state_dict())
    with torch.no_grad():
        plain.score_layers["stride16"].weight.mul_(0.01)
        plain.score_layers["stride8"].weight.mul_(0.0001)
        image = torch.rand(1, 3, 70, 50)
        expected = plain(image)
        assert torch.allclose(at_once(image), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(mini("fcn8s-mini")(image), expected, rtol=1e-3)


def test_a_stage_starts_as_the_last_one_through_its_own_upscoring(tmp_path):
    from safetensors.torch import save_file

    coarse = mini("fcn32s-mini")
    save_file(coarse.state_dict(), tmp_path / "coarse.safetensors")
    fine = create("fcn16s-mini", 5, geometry="caffe").eval()
    start_from(fine, tmp_path / "coarse.safetensors")
    assert not fine.score_layers["stride16"].weight.any()
    assert not fine.score_layers["stride16"].bias.any()
    save_file(fine.state_dict(), tmp_path / "fine.safetensors")
    finest = create("fcn8s-mini", 5, geometry="caffe")
    start_from(finest, tmp_path / "fine.safetensors")
    assert not finest.score_layers["stride8"].weight.any()
    assert not finest.score_layers["stride8"].bias.any()
    image = torch.rand(1, 3, 40, 60)
    with torch.no_grad():
        score = coarse.score_layers["stride32"](coarse.trunk((image - coarse.mean) / coarse.std)[-1])
        expected = cropped(deconvolved(deconvolved(score, 2), 16), 27, image)
        assert torch.allclose(fine(image), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("upscore", "trained"), [("fixed", []), ("learned", ["stride32"]), ("all", ["stride32", "image"])]
)
def test_only_the_chosen_kernels_are_trained(upscore, trained):
    model = mini("fcn16s-mini", upscore=upscore)
    kernels = {name: layer.weight.clone() for name, layer in model.upscore_layers.items()}
    step = torch.optim.SGD(model.parameters(), 0.01)
    model(torch.rand(1, 3, 33, 33)).square().sum().backward()
    step.step()
    moved = [name for name, layer in model.upscore_layers.items() if not torch.equal(layer.weight, kernels[name])]
    assert moved == trained


@torch.no_grad()
@pytest.mark.parametrize("geometry", ["same", "caffe"])
@pytest.mark.parametrize("name", ["fcn32s-mini", "fcn16s-mini", "fcn8s-mini"])
def test_the_score_of_one_cell_lies_around_its_place_on_the_image(name, geometry):
    """Checklist D4."""
    model, size = create(name, 1, geometry=geometry).eval(), (256, 288)
    shapes = [tap.shape[2:] for tap in model.trunk(torch.rand(1, 3, *size))]
    for level, grid in enumerate(model.grids):
        scores = [torch.zeros(1, 1, *shape) for shape in shapes]
        cell = int((128 - grid.start) // grid.stride)
        scores[level][0, 0, cell, cell] = 1
        rows = upsample(model._fused(scores, size), size, grid=model.grid)[0, 0].sum(1)
        centre = float((rows * torch.arange(size[0])).sum() / rows.sum())
        assert centre == pytest.approx(float(grid.start + cell * grid.stride), abs=0.5)


@pytest.mark.parametrize("name", ["fcn32s-vgg16", "fcn32s-alexnet", "fcn32s-googlenet"])
def test_pools_round_up_as_caffes(name):
    """Checklist D5."""
    seen = []
    trunk = blank(name).trunk
    for layer in trunk.modules():
        if isinstance(layer, nn.MaxPool2d) and layer.stride == 2:
            layer.register_forward_hook(
                lambda pool, given, found: seen.append((pool.kernel_size, given[0].shape[-1], found.shape[-1]))
            )
    with torch.device("meta"):
        for size in (1, 31, 33, 97, 255, 501):
            trunk(torch.zeros(1, 3, size, size))
    assert seen
    assert all(found == -(-(given - kernel_size) // 2) + 1 for kernel_size, given, found in seen)


@pytest.mark.parametrize("padding", [81, 100, 113, 164])
def test_any_padding_derives_its_offsets(padding):
    trunk = trunk_of("mini", [8, 16, 32], "caffe").eval()
    trunk.conv1_1.padding = (padding, padding)
    model = ClassicFCN(trunk, trace(trunk), 2, mean=[0.0] * 3, std=[1.0] * 3)
    # The taps move together; only the image lies elsewhere under them.
    assert model.crop_offsets == (5, 9, 31 + padding - 100)


def test_too_little_padding_is_refused():
    trunk = trunk_of("mini", [32], "caffe").eval()
    trunk.conv1_1.padding = (1, 1)
    with pytest.raises(ValueError, match=r"pads too little.*would be -80; pad.*80 or more"):
        ClassicFCN(trunk, trace(trunk, size=(256, 288)), 2, mean=[0.0] * 3, std=[1.0] * 3)


def test_caffes_geometry_is_that_of_the_papers_trunks():
    with pytest.raises(FullyconvError, match=r"SEG-M002.*vgg16, alexnet, googlenet.*--geometry same"):
        create("fcn8s-test_resnet", 2, geometry="caffe")


def test_caffes_geometry_has_one_alignment():
    with pytest.raises(FullyconvError, match=r"SEG-T012.*--alignment centred is not for --geometry caffe"):
        create("fcn8s-mini", 2, geometry="caffe", alignment="centred")


def test_both_geometries_hold_the_same_weights():
    same, caffe = create("fcn8s-mini", 5), mini("fcn8s-mini")
    same.load_state_dict(caffe.state_dict())
    assert same.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5, 64, 64)


def test_torchvisions_layers_are_found_by_position():
    with torch.device("meta"):
        from torchvision.models import vgg16

        theirs = {name: tuple(tensor.shape) for name, tensor in vgg16().state_dict().items()}
        ours = trunk_of("vgg16", [32]).state_dict()
    for stem, name in torchvision_names().items():
        kernel = ours[f"{name}.weight"]
        assert int(np.prod(theirs[f"{stem}.weight"])) == kernel.numel()
        assert theirs[f"{stem}.weight"][0] == len(kernel)
    assert len(torchvision_names()) == 15


def test_the_command_trains_saves_and_loads_caffes_geometry(tmp_path):
    train(
        squares(tmp_path / "data", train=3, val=1),
        model="fcn16s-mini",
        geometry="caffe",
        upscore="all",
        out=tmp_path / "run",
        steps=2,
        batch=2,
        crop=(32, 32),
        workers=0,
    )
    model = load(tmp_path / "run" / "last").model
    assert isinstance(model, ClassicFCN)
    assert model.crop_offsets == (5, 27)
    fresh = create("fcn16s-mini", 2, geometry="caffe", upscore="all").upscore_layers
    assert not torch.equal(model.upscore_layers["image"].weight, fresh["image"].weight)
