"""Networks of the authors' release become model folders that predict."""

import json

import numpy as np
import pytest
import torch
from caffe_files import (
    BGR_MEANS,
    HHA_MEAN,
    LOG_DEPTH_MEAN,
    dense,
    saved,
    snapshot,
    theirs,
    two_headed,
    two_towered,
)
from PIL import Image
from thin import make_thin
from torch import nn

import fullyconv
from fullyconv import cli
from fullyconv.artefact import weight_file
from fullyconv.datasets import nyud, siftflow, voc
from fullyconv.errors import FullyconvError
from fullyconv.images import image_size
from fullyconv.importing import import_weights
from fullyconv.models import FCN, create, start_from
from fullyconv.released import NETS
from fullyconv.surgery import bilinear_kernel


@pytest.fixture(autouse=True)
def _with_thin_networks(monkeypatch):
    make_thin(monkeypatch, "vgg16", "alexnet")


def trained(name: str) -> FCN:
    """A network of the release with scores that say something, which takes what `prepared` gives as it is."""
    net, bands = NETS[name], sum(NETS[name].bands)
    plain = {"mean": (0.0,) * bands, "std": (1.0,) * bands, "log_bands": ()}
    model = create(num_classes=sum(map(len, net.heads.values())), **{**net.architecture, **plain})
    for tower in getattr(model, "towers", [model]):
        for layer in tower.score_layers.values():
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return model.eval()


LAYOUTS = {"nyud": "nyud", "siftflow": "siftflow", "pascalcontext": "pascal_context"}


def prepared(name: str, image: torch.Tensor) -> torch.Tensor:
    """What the authors' layers feed their network of an image in [0, 1], but for the order of colours: red first."""
    layout = LAYOUTS.get(name.partition("-")[0], "voc")
    hha = 255 * image[:, -3:] - torch.tensor(HHA_MEAN).view(-1, 1, 1)
    color = 255 * image[:, :3] - torch.tensor(BGR_MEANS[layout][::-1]).view(-1, 1, 1)
    depth = (65535 * image[:, 3:]).log() - LOG_DEPTH_MEAN
    return torch.cat({"hha": [hha], "color-hha": [color, hha]}.get(NETS[name].inputs, [color, depth]), 1)


def file_of(folder, name: str, model: FCN):
    """The file that its network would have been saved in."""
    if NETS[name].inputs == "color-hha":
        return snapshot(folder, two_towered(model.towers))
    state = theirs(model)
    if "siftflow" in name:
        state = two_headed(state, 33)
    if NETS[name].inputs == "hha":
        state["conv1_1.weight"] = state["conv1_1.weight"].flip(1)  # HHA's bands stand as ours do
    if NETS[name].inputs == "color-d":
        kernel = state.pop("conv1_1.weight").flip(1)  # as ours
        state |= {"conv1_1_bgrd.weight": kernel[:, [2, 1, 0, 3]], "conv1_1_bgrd.bias": state.pop("conv1_1.bias")}
    if "atonce" in name:
        scales = {"scale_pool4": ("stride16", 0.01), "scale_pool3": ("stride8", 0.0001)}
        for layer, (place, scale) in scales.items():
            state[f"{layer}.weight"] = torch.full((model.score_layers[place].weight.shape[1],), scale)
    return snapshot(folder, state)


@pytest.mark.parametrize("name", NETS)
def test_a_model_folder_gives_the_logits_of_its_file(tmp_path, name):
    model = trained(name)
    imported = import_weights(file_of(tmp_path, name, model), as_=name, out=tmp_path / "model")
    assert imported.network == name
    image = torch.rand(1, sum(NETS[name].bands), 21, 35)
    with torch.no_grad():
        logits = model(prepared(name, image))
        heads = [fullyconv.load(tmp_path / "model", head=head) for head in imported.heads if len(imported.heads) > 1]
        ours = torch.cat([each.model(image) for each in heads or [fullyconv.load(tmp_path / "model")]], 1)
    assert torch.allclose(ours, logits, rtol=0, atol=1e-5 * float(logits.abs().max()))


def test_a_model_folder_knows_classes_bands_and_origin(tmp_path):
    file = file_of(tmp_path, "fcn16s-vgg16", trained("fcn16s-vgg16"))
    import_weights(file, as_="fcn16s-vgg16", out=tmp_path / "model")
    segmenter = fullyconv.load(tmp_path / "model")
    assert segmenter.labels == voc.LABELS
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["imported"]["file"] == "net.caffemodel"
    assert config["imported"]["network"] == "fcn16s-vgg16"
    assert segmenter((np.random.default_rng(0).random((20, 30, 3)) * 255).astype(np.uint8)).mask.shape == (20, 30)


def test_training_starts_from_an_imported_network_as_it_was_made(tmp_path):
    towers = {"nyud-fcn32s-color": trained("nyud-fcn32s-color"), "nyud-fcn32s-hha": trained("nyud-fcn32s-hha")}
    for name, model in towers.items():
        import_weights(file_of(tmp_path, name, model), as_=name, out=tmp_path / name)
    fused = create("fcn32s-vgg16", 40, geometry="caffe", channels=6, streams=(3, 3)).eval()
    start_from(fused, *(weight_file(tmp_path / name) for name in towers))
    image = torch.rand(1, 6, 21, 35)
    with torch.no_grad():
        parts = zip(towers.items(), image.split(3, 1), strict=True)
        expected = torch.stack([model(prepared(name, part)) for (name, model), part in parts]).mean(0)
        assert torch.allclose(fused(image), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_two_heads_have_labels_of_their_own(tmp_path):
    name = "siftflow-fcn16s"
    imported = import_weights(file_of(tmp_path, name, trained(name)), as_=name, out=tmp_path / "model")
    assert str(imported).startswith(f"{tmp_path / 'model'}: siftflow-fcn16s, 33 semantic and 3 geometric")
    hint = f"fullyconv predict {tmp_path / 'model'} photos/ --head semantic --out semantic/"
    assert hint in str(imported).splitlines()
    assert fullyconv.load(tmp_path / "model", head="semantic").labels == siftflow.SEMANTIC_LABELS
    assert fullyconv.load(tmp_path / "model", head="geometric").labels == siftflow.GEOMETRIC_LABELS


def test_the_fourth_band_is_depth_whose_logarithm_the_network_takes(tmp_path):
    name = "nyud-fcn32s-color-d"
    imported = import_weights(file_of(tmp_path, name, trained(name)), as_=name, out=tmp_path / "model")
    assert "fourth band is depth in millimetres, as a picture of 16 bits" in str(imported)
    assert str(imported).endswith("'photos/{name}.png' --more 'depth/{name}.png' --out masks/")
    segmenter, seen = fullyconv.load(tmp_path / "model", runtime="torch"), []
    segmenter.model.trunk.conv1_1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    color, depth = np.full((9, 8, 3), 100, np.uint8), np.full((9, 8), 2550, np.uint16)
    depth[0] = 0
    segmenter(color, more=[depth])
    with pytest.raises(FullyconvError, match=r"SEG-D030.*logarithm of depth in a picture of 16 bits, got 8"):
        segmenter(color, more=[depth.astype(np.uint8)])
    # nyud_layers.py of the authors' release: the logarithm of the file's numbers, less 7.844; they have no 0
    assert seen[0][0, 3, 1:].unique().tolist() == pytest.approx([np.log(2550) - 7.844], abs=1e-4)
    assert seen[0][0, 3, 0].unique().tolist() == pytest.approx([-7.844], abs=1e-4)
    assert seen[0][0, :3, 0, 0].tolist() == pytest.approx([100 - 92.318, 100 - 97.203, 100 - 116.190], abs=1e-4)


def test_a_network_of_logarithms_starts_no_other(tmp_path):
    name = "nyud-fcn32s-color-d"
    import_weights(file_of(tmp_path, name, trained(name)), as_=name, out=tmp_path / "model")
    file = weight_file(tmp_path / "model")
    with pytest.raises(FullyconvError, match=r"SEG-M005.*sees the logarithm of some bands.*this one does not"):
        start_from(create("fcn32s-vgg16", 40, channels=4), file)
    alike = create("fcn32s-vgg16", 40, channels=4, log_bands=[3])
    start_from(alike, file)
    assert float(alike.mean[0, 3]) == pytest.approx(7.844 / np.log(65535))


# Which network is it? ------------------------------------------------------------------------------------------------


def test_staged_and_at_once_are_never_guessed(tmp_path):
    model = trained("fcn8s-vgg16")
    file = saved(tmp_path, theirs(model))
    with pytest.raises(FullyconvError, match=r"SEG-M022.*--as fcn8s-vgg16 or fcn8s-atonce-vgg16"):
        import_weights(file, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
    staged = import_weights(file, as_="fcn8s-vgg16", out=tmp_path / "staged")
    at_once = import_weights(file, as_="fcn8s-atonce-vgg16", out=tmp_path / "at_once")
    assert [staged.network, at_once.network] == ["fcn8s-vgg16", "fcn8s-atonce-vgg16"]
    image = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        first, second = (fullyconv.load(tmp_path / place).model(image) for place in ("staged", "at_once"))
    assert not torch.allclose(first, second, rtol=0.1)


@pytest.mark.parametrize(("arch", "name"), [("FCN8s", "fcn8s-vgg16"), ("FCN8sAtOnce", "fcn8s-atonce-vgg16")])
def test_a_checkpoint_that_names_its_network_is_believed(tmp_path, arch, name):
    file = saved(tmp_path, {"arch": arch, "model_state_dict": theirs(trained(name))})
    assert import_weights(file, out=tmp_path / "model").network == name


@pytest.mark.parametrize(
    "name", ["fcn32s-vgg16", "fcn8s-vgg16", "fcn8s-atonce-vgg16", "siftflow-fcn8s", "nyud-fcn32s-color-hha"]
)
def test_a_snapshot_that_fits_one_network_needs_no_name(tmp_path, name):
    assert import_weights(file_of(tmp_path, name, trained(name)), out=tmp_path / "model").network == name


def test_color_and_hha_are_never_guessed(tmp_path):
    file = file_of(tmp_path, "nyud-fcn32s-hha", trained("nyud-fcn32s-hha"))
    with pytest.raises(FullyconvError, match=r"SEG-M022.*one head on 3 bands for 40.*--as nyud-fcn32s-color or nyud-f"):
        import_weights(file, out=tmp_path / "model")


def test_a_wrong_name_is_refused_with_the_right_one(tmp_path):
    file = file_of(tmp_path, "fcn16s-vgg16", trained("fcn16s-vgg16"))
    with pytest.raises(FullyconvError, match=r"SEG-M023.*no fcn32s-alexnet.*it is fcn16s-vgg16.*say --as fcn16s-vgg16"):
        import_weights(file, as_="fcn32s-alexnet", out=tmp_path / "model")
    with pytest.raises(FullyconvError, match=r"SEG-M001.*fcn16s-vg16; did you mean fcn16s-vgg16\?"):
        import_weights(file, as_="fcn16s-vg16", out=tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "wrong"), [("fcn8s-vgg16", "fcn8s-atonce-vgg16"), ("fcn8s-atonce-vgg16", "fcn8s-vgg16")]
)
def test_scales_of_the_taps_tell_staged_from_at_once(tmp_path, name, wrong):
    file = file_of(tmp_path, name, trained(name))
    with pytest.raises(FullyconvError, match=rf"SEG-M023.*is no {wrong}, .*it is {name} with.*; say --as {name}$"):
        import_weights(file, as_=wrong, out=tmp_path / "model")


def test_a_classifier_is_sent_to_training(tmp_path):
    state = {name: tensor for name, tensor in theirs(trained("fcn32s-vgg16")).items() if "score" not in name}
    for as_ in (None, "fcn32s-vgg16"):
        with pytest.raises(FullyconvError, match=r"SEG-M023.*no layer score_fr.*fullyconv train DATA.*--pretrained"):
            import_weights(saved(tmp_path, state), as_=as_, out=tmp_path / "model")


def test_a_network_of_another_toolkit_is_asked_for_its_name(tmp_path):
    state = {"backbone.conv1.weight": torch.zeros(64, 3, 7, 7), "classifier.4.weight": torch.zeros(21, 256, 1, 1)}
    with pytest.raises(FullyconvError, match=r"SEG-M023.*another toolkit is named with --as: torchvision:deeplabv3"):
        import_weights(saved(tmp_path, state), out=tmp_path / "model")


def test_weights_that_are_missing_or_too_many_are_named(tmp_path):
    state = theirs(trained("fcn16s-vgg16"))
    more = saved(tmp_path, state | {"conv6_1.weight": torch.zeros(3)})
    with pytest.raises(FullyconvError, match=r"SEG-M023.*no fcn16s-vgg16: conv6_1.weight fit nowhere"):
        import_weights(more, as_="fcn16s-vgg16", out=tmp_path / "model")
    less = saved(tmp_path, {name: tensor for name, tensor in state.items() if not name.startswith("fc7")})
    with pytest.raises(FullyconvError, match=r"SEG-M023.*trunk.fc7.weight, trunk.fc7.bias are not in it"):
        import_weights(less, as_="fcn16s-vgg16", out=tmp_path / "model")


# Classes -------------------------------------------------------------------------------------------------------------


def own_file(tmp_path, classes: int):
    """A network of pytorch-fcn for classes of one's own."""
    model = create("fcn32s-vgg16", classes, geometry="caffe")
    return saved(tmp_path, theirs(model))


def test_classes_of_ones_own_are_named_by_a_file(tmp_path):
    file = own_file(tmp_path, 2)
    with pytest.raises(FullyconvError, match=r"SEG-M006.*scores 2 classes, and voc has 21.*--classes FILE"):
        import_weights(file, as_="fcn32s-vgg16", out=tmp_path / "model")
    with pytest.raises(FullyconvError, match=r"SEG-M022.*for 2 classes, which no net.*--as fcn32s-vgg16 or.*--classes"):
        import_weights(file, out=tmp_path / "model")
    (tmp_path / "classes.txt").write_text("sound\nrotten\n")
    import_weights(file, as_="fcn32s-vgg16", out=tmp_path / "model", classes=tmp_path / "classes.txt")
    assert fullyconv.load(tmp_path / "model").labels.names == ("sound", "rotten")


def test_as_many_names_as_classes_are_wanted(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(FullyconvError, match=r"SEG-M006.*scores 2 classes, and .*classes\.txt has 3"):
        import_weights(
            own_file(tmp_path, 2), as_="fcn32s-vgg16", out=tmp_path / "model", classes=tmp_path / "classes.txt"
        )
    name = "siftflow-fcn32s"
    with pytest.raises(FullyconvError, match=r"SEG-M006.*names the classes of one head.*has 2"):
        import_weights(
            file_of(tmp_path, name, trained(name)), as_=name, out=tmp_path / "m", classes=tmp_path / "classes.txt"
        )


# Kernels, folders, the command ---------------------------------------------------------------------------------------


def test_what_kernels_carry_between_classes_is_told(tmp_path):
    mixing = dense(bilinear_kernel(4).float().expand(21, 1, -1, -1))
    mixing[0, 1] = 0.25
    file = saved(tmp_path, theirs(trained("fcn16s-vgg16")) | {"upscore2.weight": mixing})
    with pytest.raises(FullyconvError, match=r"SEG-M021"):
        import_weights(file, as_="fcn16s-vgg16", out=tmp_path / "model")
    imported = import_weights(file, as_="fcn16s-vgg16", out=tmp_path / "model", upscore="learned")
    (note,) = imported.notes
    assert note.startswith("upscore2 carried scores between classes by 1 of its kernels, of up to 0.25, which")


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(FullyconvError, match=r"SEG-U008.*model exists already"):
        import_weights(tmp_path / "net.pth", as_="fcn32s-vgg16", out=tmp_path / "model")


def test_the_command_imports_and_predict_reads_what_it_wrote(tmp_path, capsys):
    file = file_of(tmp_path, "nyud-fcn32s-color", trained("nyud-fcn32s-color"))
    words = ["import", str(file), "--as", "nyud-fcn32s-color", "--out", str(tmp_path / "model"), "--json"]
    assert cli.main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "model": str(tmp_path / "model"),
        "network": "nyud-fcn32s-color",
        "heads": {"classes": list(nyud.LABELS.names)},
        "published": False,
        "notes": [],
    }
    Image.new("RGB", (31, 20)).save(tmp_path / "photo.png")
    assert (
        cli.main(["predict", str(tmp_path / "model"), str(tmp_path / "photo.png"), "--out", str(tmp_path / "m")]) == 0
    )
    assert image_size(tmp_path / "m" / "photo.png") == (20, 31)
