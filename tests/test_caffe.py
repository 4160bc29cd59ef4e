"""Weights under Caffe's names give the network that Caffe would run."""

from hashlib import md5

import pytest
import torch
from caffe_files import LEAVES, dense, saved, snapshot, theirs, two_headed, two_towered
from thin import make_thin
from torch import Tensor, nn

import fullyconv
from fullyconv.errors import FullyconvError
from fullyconv.means import BGR_MEANS, IMAGENET_STD
from fullyconv.models import FCN, create, start_from
from fullyconv.models.caffe import BRANCHES, Name, in_our_names, parsed, towers_of
from fullyconv.models.classic import ClassicNet, torchvision_names
from fullyconv.models.weights import PUBLISHED, Weights, read_weights
from fullyconv.surgery import bilinear_kernel

CLASSES = 21  # as VOC has
NETS = ["fcn32s-vgg16", "fcn16s-vgg16", "fcn8s-vgg16", "fcn8s-atonce-vgg16", "fcn32s-alexnet"]


@pytest.fixture(autouse=True)
def _with_thin_networks(monkeypatch):
    make_thin(monkeypatch, "vgg16", "alexnet", "googlenet")


def network(name: str, **options: object) -> FCN:
    """One whose every score layer and trained kernel says something."""
    model = create(name, CLASSES, geometry="caffe", **options)
    for layer in [*model.score_layers.values(), *model.upscore_layers.values()]:
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return model.eval()


def assert_same_logits(ours: FCN, expected: FCN) -> None:
    image = torch.rand(1, 3, 37, 51)
    with torch.no_grad():
        logits = expected(image)
        assert torch.allclose(ours.eval()(image), logits, rtol=0, atol=1e-5 * float(logits.abs().max()))


def assert_all_found(found: dict[str, Tensor], expected: FCN) -> None:
    own = {key: tensor for key, tensor in expected.state_dict().items() if key not in ("mean", "std")}
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in own.items())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("upscore", ["fixed", "all"])
def test_every_weight_finds_its_place(tmp_path, name, upscore):
    model = network(name, upscore=upscore)
    fresh = create(name, CLASSES, geometry="caffe", upscore=upscore)
    write = snapshot if "alexnet" in name else saved  # pytorch-fcn has no such net
    taken = start_from(fresh, write(tmp_path, theirs(model)))
    assert (taken.dropped, taken.missing) == ((), ())
    for key, tensor in model.state_dict().items():
        assert key in ("mean", "std") or torch.equal(fresh.state_dict()[key], tensor)


def test_caffes_statistics_come_along(tmp_path):
    model = network("fcn32s-vgg16")
    fresh = create("fcn32s-vgg16", CLASSES, geometry="caffe")
    start_from(fresh, saved(tmp_path, theirs(model)))
    # infer.py of the authors' release: BGR means of images from 0 to 255, no division.
    assert (fresh.mean.flatten() * 255).tolist() == pytest.approx([122.67891434, 116.66876762, 104.00698793])
    assert (fresh.std.flatten() * 255).tolist() == pytest.approx([1, 1, 1])


def test_a_snapshot_and_a_pth_give_the_same_network(tmp_path):
    model = network("fcn8s-vgg16")
    fresh = create("fcn8s-vgg16", CLASSES, geometry="caffe")
    assert start_from(fresh, snapshot(tmp_path, theirs(model))).missing == ()
    again = create("fcn8s-vgg16", CLASSES, geometry="caffe")
    start_from(again, saved(tmp_path, theirs(model)))
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("score_pool4_sem.weight", Name("score_pool4", "weight", "", "sem")),
        ("upscore2_geo.weight", Name("upscore2", "weight", "", "geo")),
        ("score_frhha.bias", Name("score_fr", "bias", "hha", "")),
        ("conv1_1color.weight", Name("conv1_1", "weight", "color", "")),
        ("conv1_1_bgrd.weight", Name("conv1_1", "weight", "", "")),
        ("inception_3a/5x5_reduce.weight", Name("inception_3a/5x5_reduce", "weight", "", "")),
    ],
)
def test_marks_of_heads_towers_and_bands_are_told_from_names(text, name):
    assert parsed(text) == name


def test_heads_are_joined_the_semantic_one_first(tmp_path):
    model = network("fcn16s-vgg16", upscore="all")
    split = two_headed(theirs(model), 3)
    split = dict(sorted(split.items()))  # the geometric head comes first in the file
    assert_all_found(in_our_names(Weights(tmp_path / "net.caffemodel", split, caffe=True), model), model)


def test_a_fourth_band_stays_the_fourth(tmp_path):
    model = network("fcn32s-vgg16", channels=4)
    state = theirs(model)
    kernel = model.trunk.conv1_1.weight.detach()
    del state["conv1_1.weight"]
    state["conv1_1_bgrd.weight"] = kernel[:, [2, 1, 0, 3]]
    state["conv1_1_bgrd.bias"] = state.pop("conv1_1.bias")
    found = in_our_names(Weights(saved(tmp_path, state), state, caffe=True), model)
    assert torch.equal(found["trunk.conv1_1.weight"], kernel)


def test_hha_is_not_turned(tmp_path):
    model = network("fcn32s-vgg16")
    state = {"conv1_1.weight": model.trunk.conv1_1.weight.detach()}
    found = in_our_names(Weights(saved(tmp_path, state), state, caffe=True, bgr=False), model)
    assert torch.equal(found["trunk.conv1_1.weight"], state["conv1_1.weight"])


def test_each_tower_of_a_late_fusion_finds_its_own(tmp_path):
    towers = [network("fcn32s-vgg16", upscore="all") for _ in range(2)]
    towers[1].upscore_layers.load_state_dict(towers[0].upscore_layers.state_dict())  # there is one above both
    of_towers = towers_of(read_weights(snapshot(tmp_path, two_towered(towers))))
    for part, expected in zip(of_towers, towers, strict=True):
        assert_all_found(in_our_names(part, expected), expected)


def test_networks_of_other_data_are_imported_before_training(tmp_path):
    fresh = create("fcn32s-vgg16", CLASSES, geometry="caffe")
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    nyud = create("fcn32s-vgg16", 40, geometry="caffe")
    for state in (theirs(nyud), two_towered([nyud, nyud]), two_headed(theirs(network("fcn32s-vgg16")), 20)):
        with pytest.raises(
            FullyconvError, match=r"SEG-M022.*net\.caffemodel scores .*fullyconv import .*--pretrained M"
        ):
            start_from(fresh, snapshot(tmp_path, state))
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())


# Scales of the taps --------------------------------------------------------------------------------------------------


def with_scales(state: dict[str, Tensor], model: FCN, pool4: float, pool3: float) -> dict[str, Tensor]:
    """Caffe's `Scale` layers beside the weights, a number per channel."""
    channels = {place: layer.weight.shape[1] for place, layer in model.score_layers.items()}
    return state | {
        "scale_pool4.weight": torch.full((channels["stride16"],), pool4),
        "scale_pool3.weight": torch.full((channels["stride8"],), pool3),
    }


def test_scales_that_the_network_has_leave_every_bit(tmp_path):
    model = network("fcn8s-atonce-vgg16")
    state = with_scales(theirs(model), model, 0.01, 0.0001)
    fresh = create("fcn8s-atonce-vgg16", CLASSES, geometry="caffe")
    start_from(fresh, saved(tmp_path, state))
    for place, layer in model.score_layers.items():
        assert torch.equal(fresh.score_layers[place].weight, layer.weight)


@pytest.mark.parametrize(("target", "pool4", "pool3"), [("fcn8s-vgg16", 0.01, 1e-4), ("fcn8s-atonce-vgg16", 0.5, 2.0)])
def test_other_scales_are_folded(tmp_path, target, pool4, pool3):
    model = network("fcn8s-vgg16")
    fresh = create(target, CLASSES, geometry="caffe")
    start_from(fresh, saved(tmp_path, with_scales(theirs(model), model, pool4, pool3)))
    with torch.no_grad():
        model.mean.copy_(fresh.mean)
        model.std.copy_(fresh.std)
        model.score_layers["stride16"].weight.mul_(pool4)
        model.score_layers["stride8"].weight.mul_(pool3)
    assert_same_logits(fresh, model)


def test_a_checkpoint_that_names_its_network_is_folded_too(tmp_path):
    model = network("fcn8s-atonce-vgg16")
    file = saved(tmp_path, {"arch": "FCN8sAtOnce", "model_state_dict": theirs(model)})
    plain = create("fcn8s-vgg16", CLASSES, geometry="caffe")
    start_from(plain, file)
    with torch.no_grad():
        model.mean.copy_(plain.mean)
        model.std.copy_(plain.std)
    assert_same_logits(plain, model)


# Upsampling kernels --------------------------------------------------------------------------------------------------


def kernels_of(tmp_path, upscore2: Tensor, upscore16: Tensor, **options: object) -> tuple[FCN, tuple[str, ...]]:
    """A network that starts from a file with these kernels, and what of the file was dropped."""
    state = theirs(network("fcn16s-vgg16")) | {"upscore2.weight": upscore2, "upscore16.weight": upscore16}
    fresh = create("fcn16s-vgg16", CLASSES, geometry="caffe", **options)
    return fresh, start_from(fresh, saved(tmp_path, state)).dropped


def bilinear(kernel_size: int) -> Tensor:
    return bilinear_kernel(kernel_size).float().expand(CLASSES, 1, -1, -1).clone()


@pytest.mark.parametrize("form", [dense, lambda kernels: kernels])
def test_bilinear_kernels_are_left_out_of_a_fixed_network(tmp_path, form):
    _, dropped = kernels_of(tmp_path, form(bilinear(4)), form(bilinear(32)))
    assert dropped == ()


@pytest.mark.parametrize("form", [dense, lambda kernels: kernels])
def test_trained_kernels_are_kept_where_they_may_be(tmp_path, form):
    middle, last = (
        bilinear(4) + 0.1 * torch.randn(CLASSES, 1, 4, 4),
        bilinear(32) + 0.1 * torch.randn(CLASSES, 1, 32, 32),
    )
    with pytest.raises(FullyconvError, match=r"SEG-M021.*upscore2 of .*net\.pth was trained.*--upscore learned"):
        kernels_of(tmp_path, form(middle), form(bilinear(32)))
    with pytest.raises(FullyconvError, match=r"SEG-M021.*upscore16 of .*was trained.*--upscore all"):
        kernels_of(tmp_path, form(middle), form(last), upscore="learned")
    model, dropped = kernels_of(tmp_path, form(middle), form(last), upscore="all")
    assert dropped == ()
    assert torch.equal(model.upscore_layers["stride32"].weight, middle)
    assert torch.equal(model.upscore_layers["image"].weight, last)


def test_kernels_between_classes_are_refused_or_named(tmp_path):
    mixing = dense(bilinear(4))
    mixing[0, 1] = 0.2
    mixing[3, 2, 1, 1] = -0.1
    with pytest.raises(
        FullyconvError, match=r"SEG-M021.*upscore2.*from one class to another by 2 of its kernels.*--upscore lea"
    ):
        kernels_of(tmp_path, mixing, bilinear(32))
    model, dropped = kernels_of(tmp_path, mixing, bilinear(32), upscore="learned")
    assert dropped == ("upscore2 between classes",)
    assert torch.equal(model.upscore_layers["stride32"].weight, bilinear(4))


# Classifiers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", ["vgg16", "alexnet"])
def test_a_classifier_of_caffe_starts_a_network(tmp_path, trunk):
    model = network(f"fcn32s-{trunk}")
    state = {"fc8.weight": torch.ones(1000, 512), "fc8.bias": torch.ones(1000)}
    for name, tensor in theirs(model).items():
        if not name.startswith("score"):
            state[name] = tensor.flatten(1) if name.startswith("fc") and tensor.ndim == 4 else tensor
    file = snapshot(tmp_path, state)
    for geometry in ("same", "caffe"):
        fresh = create(f"fcn32s-{trunk}", CLASSES, geometry=geometry)
        taken = start_from(fresh, file)
        assert taken.dropped == ("fc8.weight", "fc8.bias")
        assert taken.missing == ("score_layers.stride32.weight", "score_layers.stride32.bias")
        for key, tensor in model.trunk.state_dict().items():
            assert torch.equal(fresh.trunk.state_dict()[key], tensor)


@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_a_classifier_of_caffe_is_converted_with_its_colours_and_statistics(tmp_path, name):
    net = ClassicNet(name)
    first = next(iter(net.state_dict()))
    branches = {ours: theirs for theirs, ours in BRANCHES.items()}
    state = {"loss1/fc.weight": torch.ones(2, 2), "loss1/fc.bias": torch.ones(2)} if name == "googlenet" else {}
    for key, tensor in net.state_dict().items():
        block, _, branch = key.rpartition(".")[0].partition(".")
        layer = f"{block}/{branches[branch]}" if branch else block.replace("_", "/", 1)
        state[f"{layer}.{key.rpartition('.')[2]}"] = tensor.flip(1) if key == first else tensor
    model = fullyconv.convert(name, classes=2, pretrained=str(snapshot(tmp_path, state))).model
    assert all(
        torch.equal(tensor.flatten(), net.state_dict()[key].flatten())
        for key, tensor in model.trunk.state_dict().items()
    )
    assert (255 * model.std).flatten().tolist() == pytest.approx([1, 1, 1])
    assert (255 * model.mean).flatten().tolist() == pytest.approx(BGR_MEANS["voc"][::-1])


def classifier(tmp_path):
    """The file of one."""
    state = theirs(network("fcn32s-vgg16"))
    return snapshot(tmp_path, {name: tensor for name, tensor in state.items() if not name.startswith("score")})


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_images_excite_caffes_kernels_as_colours_do(tmp_path, channels):
    fewer = create("fcn32s-vgg16", CLASSES, channels=channels, std=[sum(IMAGENET_STD) / 3] * channels)
    colors = create("fcn32s-vgg16", CLASSES)
    contrast = torch.rand(1, 1, 20, 30) - torch.rand(1, 1, 20, 30)  # of two images, so that means do not matter
    file, responses = classifier(tmp_path), []
    for model in (fewer, colors):
        start_from(model, file)
        kernels = model.trunk.conv1_1.weight
        responses.append(nn.functional.conv2d(contrast / model.std, kernels))
    assert torch.allclose(*responses, rtol=1e-4, atol=1e-3)


def test_a_fourth_band_comes_as_strong_as_caffes_colours(tmp_path):
    model = create("fcn32s-vgg16", CLASSES, channels=4, mean=[0.5] * 4, std=[*IMAGENET_STD, 2 * sum(IMAGENET_STD) / 3])
    start_from(model, classifier(tmp_path))
    assert (model.std.flatten() * 255).tolist() == pytest.approx([1, 1, 1, 2])
    assert model.mean[0, 3] == 0.5


def test_inception_branches_find_their_places(tmp_path):
    model = network("fcn32s-googlenet")
    branches = {ours: name for name, ours in BRANCHES.items()}
    state = {}
    for name, tensor in model.trunk.state_dict().items():
        stem, _, leaf = name.rpartition(".")
        block, _, branch = stem.partition(".")
        layer = f"{block}/{branches[branch]}" if branch else stem.replace("_", "/", 1)
        state[f"{layer}.{leaf}"] = tensor.flip(1) if layer == "conv1/7x7_s2" and leaf == "weight" else tensor
    fresh = create("fcn32s-googlenet", CLASSES, geometry="caffe")
    start_from(fresh, snapshot(tmp_path, state))
    for key, tensor in model.trunk.state_dict().items():
        assert torch.equal(fresh.trunk.state_dict()[key], tensor)


def test_vgg16_from_caffe_has_torchvisions_names_and_caffes_colors(tmp_path, monkeypatch):
    model = network("fcn32s-vgg16")
    ours = theirs(model)
    names = {f"{stem}.{leaf}": f"{layer}.{leaf}" for stem, layer in torchvision_names().items() for leaf in LEAVES}
    state = {name: ours[own].flatten(1) if own == "fc6.weight" else ours[own] for name, own in names.items()}
    file = tmp_path / "vgg16_from_caffe.pth"
    torch.save(state, file)
    monkeypatch.setitem(PUBLISHED, file.name, (None, (md5(file.read_bytes()).hexdigest(),)))
    assert read_weights(file).verified
    fresh = create("fcn32s-vgg16", CLASSES)
    assert start_from(fresh, file).dropped == ()
    for key, tensor in model.trunk.state_dict().items():
        assert torch.equal(fresh.trunk.state_dict()[key], tensor)
    assert float(fresh.std[0, 0]) == pytest.approx(1 / 255)
