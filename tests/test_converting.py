"""Converted classifiers: their certificates, their classes, their folders, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from scenes import squares
from torch import nn

import fullyconv
from fullyconv.cli import main
from fullyconv.errors import FullyconvError
from fullyconv.models import classifier

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.last = nn.Linear(8 * 9, 6)

    def forward(self, image):
        return self.last(self.body(image).flatten(1))

def make():
    torch.manual_seed(0)
    return Net()

def number():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_certificate_tells_what_was_measured() -> None:
    torch.manual_seed(0)
    facts = fullyconv.convert("test_resnet", classes=["road", "sky"], pretrained="none").facts["certificate"]
    assert 0 <= facts["relative"] < 1e-5
    assert (facts["stride"], facts["translation_exact"], facts["dropped"]) == (32, True, ["fc.bias", "fc.weight"])
    assert [(tap["stride"], tap["channels"]) for tap in facts["taps"]] == [(8, 48), (16, 192), (32, 96)]
    names = set(classifier("test_resnet").network.state_dict())
    assert {*facts["kept"], *facts["dropped"]} == names
    assert facts["mean"] == list(classifier("test_resnet").statistics["mean"])


def test_a_transformer_is_not_translation_exact() -> None:
    torch.manual_seed(0)
    segmenter = fullyconv.convert("test_vit", classes=2, pretrained="none")
    facts = segmenter.facts["certificate"]
    assert (facts["stride"], facts["translation_exact"]) == (16, False)
    assert facts["relative"] < 1e-5
    assert segmenter.labels.names == ("class 0", "class 1")


def test_kept_classes_are_scored_as_the_classifier_scores_them() -> None:
    """A cell in the middle of the classifier's own image sees what the head sees; several old classes are averaged."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 9, 6)).eval()
    segmenter = fullyconv.convert(network, classes={"cat": [1, 4], "dog": 2}, stride=8, size=(24, 24))
    image = torch.rand(1, 3, 24, 24)
    logits = network((image - segmenter.model.mean) / segmenter.model.std)[0]
    scores = segmenter.model.scores(image)[0, :, 1, 1]
    assert torch.allclose(scores, torch.stack([logits[[1, 4]].mean(), logits[2]]), atol=1e-6)


def test_a_file_becomes_a_folder_that_needs_the_file_no_more(file: Path, tmp_path: Path, capsys) -> None:
    classes = tmp_path / "classes.json"
    classes.write_text('{"cat": {"from": [0, 1, 2]}, "dog": [5]}')
    words = ["convert", f"{file}:make", "--classes", str(classes), "--size", "24", "--out", str(tmp_path / "model")]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "mine.py:make" in told
    assert "logits at 24x24" in told
    before = fullyconv.convert(f"{file}:make", classes={"cat": [0, 1, 2], "dog": [5]}, size=(24, 24))
    file.unlink()
    loaded, again = (fullyconv.load(tmp_path / "model") for _ in range(2))
    image = torch.rand(1, 3, 40, 50)
    assert torch.equal(loaded.model(image), again.model(image))
    assert torch.allclose(loaded.model(image), before.model(image), rtol=0, atol=1e-6)
    assert loaded.labels.names == ("cat", "dog")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["certificate"]["size"] == [24, 24]


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    network = classifier("test_resnet").network
    save_file(network.state_dict(), tmp_path / "trained.safetensors")
    segmenter = fullyconv.convert("test_resnet", classes=2, pretrained=str(tmp_path / "trained.safetensors"))
    assert torch.equal(segmenter.model.trunk.get_submodule("conv1.0").weight, network.conv1[0].weight)
    small = classifier("test_resnet", num_classes=5).network
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    segmenter = fullyconv.convert(
        "test_resnet", classes={"cat": [3], "dog": [4]}, pretrained=str(tmp_path / "small.safetensors")
    )
    assert torch.equal(segmenter.model.score_layers["stride32"].weight[1, :, 0, 0], small.fc.weight[4])
    with pytest.raises(FullyconvError, match=r"SEG-M005.*has no weights for.*test_convnext"):
        fullyconv.convert("test_convnext", classes=2, pretrained=str(tmp_path / "trained.safetensors"))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    """A deeper network's file has all that a shallower one takes; what only training reads is no matter."""
    state, file = classifier("test_resnet").network.state_dict(), tmp_path / "weights.safetensors"
    extra = torch.zeros(2)
    idle = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    save_file({**idle, "AuxLogits.fc.weight": extra, "aux1.fc.weight": extra.clone()}, file)
    assert fullyconv.convert("test_resnet", classes=2, pretrained=str(file)).facts["certificate"]["relative"] < 1e-5
    save_file({**state, "layer1.7.conv1.weight": extra}, file)
    with pytest.raises(FullyconvError, match=r"SEG-M005 .*no place for layer1.7.conv1.weight of .*weights.safetensors"):
        fullyconv.convert("test_resnet", classes=2, pretrained=str(file))


def test_a_file_for_colours_gives_a_fourth_band_their_mean(tmp_path: Path) -> None:
    network = classifier("test_resnet").network
    save_file(network.state_dict(), tmp_path / "colours.safetensors")
    model = fullyconv.convert(
        "test_resnet", classes=2, channels=4, pretrained=str(tmp_path / "colours.safetensors")
    ).model
    kernels = model.trunk.get_submodule("conv1.0").weight
    assert torch.equal(kernels[:, :3], network.conv1[0].weight)
    assert torch.allclose(kernels[:, 3], network.conv1[0].weight.mean(1))


def test_training_tells_what_of_a_file_has_no_place(tmp_path: Path, capfd) -> None:
    data, file = squares(tmp_path / "data", train=2, val=1), tmp_path / "weights.safetensors"
    save_file({**classifier("test_resnet").network.state_dict(), "layer1.7.conv1.weight": torch.zeros(2)}, file)
    options = {"model": "fcn32s-test_resnet", "pretrained": str(file), "steps": 1, "batch": 2, "workers": 0}
    fullyconv.train(data, out=tmp_path / "run", report=False, **options)
    told = " ".join(capfd.readouterr().err.split())
    assert all(name in told.partition("left out are")[2] for name in ("fc.weight", "fc.bias", "layer1.7.conv1.weight"))


class Random(nn.Sequential):
    """Never says the same twice."""

    def forward(self, image):  # type: ignore[no-untyped-def]
        return torch.dropout(super().forward(image), 0.5, True)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["{file}:make", "--classes", "6"], "SEG-M002", "does not run on images of 3 x 224 x 224 .*--size"),
        (["{file}:number", "--classes", "6"], "SEG-M051", "gives int, not a torch.nn.Module"),
        (["{file}:none", "--classes", "6"], "SEG-M051", "gives no network .AttributeError"),
        (["{file}", "--classes", "6"], "SEG-M051", "say which of its functions .*mine.py:make or .*mine.py:number$"),
        (["{file}x.py:make", "--classes", "6"], "SEG-M051", "does not exist; give file.py:function"),
        (["resnet81", "--classes", "6"], "SEG-M001", "resnet18"),
        (["torchvision:resnet81", "--classes", "6"], "SEG-M001", "resnet18"),
        (["test_resnet", "--classes", "none.txt"], "SEG-M006", "no number of classes and no file"),
        (["{file}:make", "--size", "24", "--classes", "{folder}/colors.json"], "SEG-M006", "colour or three old"),
        (["{file}:make", "--size", "24", "--classes", "{folder}/far.json"], "SEG-M006", "6 classes.*no class 7"),
        (["test_resnet", "--stride", "4", "--classes", "2", "--out", "{folder}"], "SEG-U008", "exists already"),
        (["test_vit", "--pretrained", "none", "--stride", "8", "--classes", "2"], "SEG-M002", "one stride, 16"),
        (["{file}:make", "--size", "24", "--classes", "{folder}/empty.json"], "SEG-M006", "'dog' must list .*got ..$"),
        (["{file}:make", "--size", "24", "--classes", "{folder}/typo.json"], "SEG-M006", "'cat' must list .*got None"),
        (["{file}:make", "--classes", "{folder}/twice.json"], "SEG-D007", "has the key 'cat' twice"),
        (["{file}:make", "--size", "-5", "--classes", "2"], "SEG-U004", "--size must be at least 1, got -5"),
        (["{file}:make", "--size", "24", "--classes", "0"], "SEG-M006", "from 1 to 65535, or a file, got 0"),
        (["{file}:make", "--size", "24", "--classes", "70000"], "SEG-M006", "from 1 to 65535, or a file, got 70000"),
        (["{file}:make", "--size", "24", "--classes", "{folder}/number.json"], "SEG-M006", "there is no class 281"),
        (["{file}:make", "--size", "24", "--classes", "{folder}/one.json"], "SEG-M006", "from.: .5.}} for old classes"),
        (["{file}:make", "--size", "24", "--mean", "0.5", "--classes", "2"], "SEG-U004", "must have 3 numbers, got 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_cure(words, code, reason, file: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "colors.json").write_text('{"cat": [1, 2, 3]}')
    (tmp_path / "empty.json").write_text('{"cat": {"from": [1]}, "dog": {"from": []}}')
    (tmp_path / "typo.json").write_text('{"cat": {"form": [1]}}')
    (tmp_path / "number.json").write_text('{"cat": 281}')
    (tmp_path / "one.json").write_text('{"cat": 5, "dog": 2}')
    (tmp_path / "twice.json").write_text('{"cat": [1], "cat": [2]}')
    (tmp_path / "far.json").write_text('{"cat": [1, 7]}')
    filled = [word.format(file=file, folder=tmp_path) for word in words]
    filled += [] if "--out" in words else ["--out", str(tmp_path / "model")]
    assert main(["convert", *filled]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert code in told
    assert not (tmp_path / "model").exists()
    assert re.search(reason, told)


def test_a_conversion_that_changes_logits_is_refused() -> None:
    network = Random(nn.Conv2d(3, 4, 3, 8, 1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(FullyconvError, match=r"SEG-M050.*differ by .* of the largest"):
        fullyconv.convert(network, classes=3, size=(8, 8), stride=8)


@pytest.mark.parametrize(
    ("network", "cure"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.Flatten(), nn.Linear(4, 3)).half(), "float16; .* by .float"),
        (nn.Sequential(nn.Conv2d(1, 4, 3, 8, 1), nn.Flatten(), nn.Linear(4, 3)), "reads 1 band; say --channels 1"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.Flatten(), nn.Linear(4, 3)), "say their side with --size"),
    ],
)
def test_a_network_that_does_not_run_is_told_why(network: nn.Module, cure: str) -> None:
    with pytest.raises(FullyconvError, match=f"SEG-M002 .*does not run on images of 3 x 8 x 8 .*{cure}"):
        fullyconv.convert(network, classes=2, size=8, stride=8)


def test_a_network_of_ones_own_is_told_what_to_change() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.Flatten(), nn.Linear(4, 3), nn.Unflatten(1, (3,)))
    with pytest.raises(FullyconvError, match=r"layer 3: Unflatten mixes .* a head is made of .* dropout and linear$"):
        fullyconv.convert(network, classes=2, size=8, stride=8)


class Hooked(nn.Sequential):
    """Does more than its graph tells."""


def test_a_network_that_a_folder_would_not_give_back_is_refused() -> None:
    network = Hooked(nn.Conv2d(3, 4, 3, 8, 1), nn.Flatten(), nn.Linear(4, 3))
    network[0].register_forward_hook(lambda layer, inputs, output: 2 * output)
    with pytest.raises(FullyconvError, match=r"SEG-M050.*built again from its folder, gives other maps.*hooks"):
        fullyconv.convert(network, classes=3, size=(8, 8), stride=8)


def test_a_network_of_timms_that_one_has_is_known_by_its_name() -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=5).train()
    segmenter = fullyconv.convert(network, classes=["road", "sky"], size=64, stride=32, channels=4)
    assert segmenter.architecture["name"] == "fcn32s-test_efficientnet"
    assert segmenter.channels == 4
    assert next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d)).in_channels == 3


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_network_that_one_has_stays_as_it_is(name: str) -> None:
    network = timm.create_model(name, num_classes=5).train()
    network.get_submodule("head" if name == "test_vit" else "fc").eval()
    before = {key: (type(layer), layer.training) for key, layer in network.named_modules()}
    tensors = {tensor.data_ptr() for tensor in network.parameters()}
    segmenter = fullyconv.convert(network, classes=2, stride=16)
    assert {key: (type(layer), layer.training) for key, layer in network.named_modules()} == before
    assert network(torch.rand(2, 3, 160, 160)).shape == (2, 5)
    assert len(tensors & {tensor.data_ptr() for tensor in segmenter.model.parameters()}) >= len(tensors) - 3


def test_images_are_normalised_as_is_said(file: Path) -> None:
    segmenter = fullyconv.convert(f"{file}:make", classes=2, size=24, mean=(0, 0, 0), std=(1, 1, 1))
    assert segmenter.model.mean.flatten().tolist() == [0, 0, 0]
    with pytest.raises(FullyconvError, match=r"SEG-U004.*--stride must be one of 4, 8, 16, 32, got 7"):
        fullyconv.convert(f"{file}:make", classes=2, size=24, stride=7)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"std": (0, 1, 1)}, "--std must be above 0, got"),
        ({"std": (float("inf"), 1, 1)}, "--std must be above 0, got"),
        ({"mean": (float("nan"), 0, 0)}, r"--mean must be from 0 to 1, .* divide by 255"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, r"from 0 to 1, .*123.7, .* divide by 255"),
    ],
)
def test_statistics_of_other_images_are_refused(given: dict[str, tuple[float, ...]], told: str, file: Path) -> None:
    with pytest.raises(FullyconvError, match=f"SEG-U004 .*{told}"):
        fullyconv.convert(f"{file}:make", classes=2, size=24, **given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"classes": []}, "SEG-M006  classes: .*at least one"),
        ({"classes": {}}, "SEG-M006  classes: .*at least one"),
        ({"classes": ["road", "sky", "road"]}, "SEG-M006  classes: .*occur twice: road"),
        ({"classes": 2, "size": -1}, "SEG-U004  --size must be at least 1, got -1"),
        ({"classes": 2, "size": (24, 0)}, "SEG-U004  --size must be at least 1, got 24,0"),
    ],
)
def test_classes_and_sizes_that_cannot_be_are_refused(given: dict[str, Any], told: str, file: Path) -> None:
    with pytest.raises(FullyconvError, match=told):
        fullyconv.convert(f"{file}:make", **{"size": 24, **given})


def test_a_classifier_of_grey_images_keeps_their_statistics() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, 8, 1), nn.Flatten(), nn.Linear(4, 3))
    network.default_cfg = {"mean": (0.13,), "std": (0.31,), "input_size": (1, 8, 8)}
    model = fullyconv.convert(network, classes=2, stride=8, channels=1).model
    assert (float(model.mean), float(model.std)) == pytest.approx((0.13, 0.31))


def test_a_folder_cannot_name_a_file_to_run(file: Path, tmp_path: Path) -> None:
    assert main(["convert", f"{file}:make", "--classes", "2", "--size", "24", "--out", str(tmp_path / "model")]) == 0
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    del values["architecture"]["graph"]
    values["architecture"]["name"] = f"fcn8s-{file}:make"
    config.write_text(json.dumps(values))
    with pytest.raises(FullyconvError, match=r"SEG-M001.*convert it first"):
        fullyconv.load(tmp_path / "model")


def test_a_head_without_a_middle_cell_is_not_kept() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1), nn.Flatten(), nn.Linear(4 * 4, 3))
    with pytest.raises(FullyconvError, match=r"SEG-M002.*2 x 2 cells.*number or names"):
        fullyconv.convert(network, classes={"cat": [0]}, size=(16, 16), stride=8)
    assert fullyconv.convert(network, classes=2, size=(16, 16), stride=8).model.num_classes == 2


def test_a_converted_model_is_trained_and_evaluated_by_commands(file: Path, tmp_path: Path, capsys) -> None:
    data, model, run = squares(tmp_path / "data", train=2, val=1), tmp_path / "model", tmp_path / "run"
    assert main(["convert", f"{file}:make", "--classes", "2", "--size", "24", "--out", str(model)]) == 0
    words = ["train", str(data), "--model", str(model), "--steps", "2", "--batch", "2", "--workers", "0"]
    assert main([*words, "--upscore", "learned", "--out", str(run)]) == 2
    assert "SEG-T012  --upscore says how a network is built" in " ".join(capsys.readouterr().err.split("\n"))
    assert main([*words, "--out", str(run), "--no-report"]) == 0
    assert main(["evaluate", str(run), str(data)]) == 0
    trained, start = fullyconv.load(run).model, fullyconv.load(model).model
    assert list(trained.state_dict()) == list(start.state_dict())
    assert not torch.equal(trained.trunk.get_submodule("body.0").weight, start.trunk.get_submodule("body.0").weight)
