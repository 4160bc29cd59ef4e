"""Networks of other toolkits: their logits, from their files."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file

import fullyconv
from fullyconv.cli import main
from fullyconv.errors import FullyconvError
from fullyconv.means import IMAGENET_MEAN, IMAGENET_STD
from fullyconv.models import create, start_from
from fullyconv.models.heads import head_of, with_more_classes

LRASPP = "torchvision:lraspp_mobilenet_v3_large"
NAMES = "ground\nsquare\ncircle\n"


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    (tmp_path / "classes.txt").write_text(NAMES)
    return tmp_path / "classes.txt"


def logits(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        out = network.eval()((image - mean) / std)
    return out["out"] if isinstance(out, dict) else out


def test_torchvisions_network_gives_its_logits(classes: Path, tmp_path: Path) -> None:
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "theirs.pth")
    words = ["import", str(tmp_path / "theirs.pth"), "--as", LRASPP]
    assert main([*words, "--classes", str(classes), "--out", str(tmp_path / "model")]) == 0
    segmenter = fullyconv.load(tmp_path / "model")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(segmenter.model(image), logits(theirs, image), rtol=0, atol=1e-5)
        assert segmenter.model(image[:, :, :37, :1]).shape == (1, 3, 37, 1)
    assert segmenter(torch.rand(3, 40, 50)).mask.shape == (40, 50)
    assert main([*words, "--out", str(tmp_path / "model")]) == 2


def test_a_network_of_smp_gives_its_logits(classes: Path, tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=3)
    state = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}  # as Lightning saves it
    save_file(state, tmp_path / "theirs.safetensors")
    fullyconv.import_weights(
        tmp_path / "theirs.safetensors", as_="smp:Unet:resnet18", out=tmp_path / "model", classes=classes
    )
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        ours = fullyconv.load(tmp_path / "model").model(image)
    assert torch.allclose(ours, logits(theirs, image), rtol=0, atol=1e-5)
    with pytest.raises(FullyconvError, match=r"SEG-M052.*Wrong"):
        create("smp:Unext:resnet18", 3)


def small(kind: str, **bands: int) -> torch.nn.Module:
    """A network of transformers with few channels, and random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(NAMES.split())), "label2id": {}}
    if kind == "segformer":
        sizes = {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]}
        config = transformers.SegformerConfig(**sizes, decoder_hidden_size=16, **names, **bands)
        return transformers.SegformerForSemanticSegmentation(config).eval()
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "depths": [1] * 4}
    trunk = transformers.ConvNextConfig(hidden_sizes=[4, 8, 8, 8], **stages)
    config = transformers.UperNetConfig(
        backbone_config=trunk, hidden_size=8, auxiliary_in_channels=8, auxiliary_channels=4, **names
    )
    return transformers.UperNetForSemanticSegmentation(config).eval()


@pytest.mark.parametrize("kind", ["segformer", "upernet"])
def test_a_network_of_transformers_gives_its_logits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the hub is asked")

    monkeypatch.setattr(socket.socket, "connect", never)
    theirs = small(kind)
    theirs.save_pretrained(tmp_path / "theirs")
    said = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(said))
    words = ["import", str(tmp_path / "theirs"), "--as", f"hf:{kind}", "--out", str(tmp_path / "model")]
    assert main(words) == 0
    segmenter = fullyconv.load(tmp_path / "model")
    assert segmenter.labels.names == ("ground", "square", "circle")
    image = torch.rand(1, 3, 64, 96)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in said.values())
    with torch.no_grad():
        expected = F.interpolate(theirs((image - mean) / std).logits, (64, 96), mode="bilinear")
        assert torch.allclose(segmenter.model(image), expected, rtol=0, atol=1e-5)
        assert segmenter.model(image[:, :, :37, :1]).shape == (1, 3, 37, 1)
    assert np.array_equal(segmenter(image[0]).mask, expected.argmax(1)[0].numpy())


def test_a_segformer_of_other_bands_is_taken_with_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = small("segformer", num_channels=5)
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.SegformerImageProcessor().save_pretrained(tmp_path / "theirs")
    imported = fullyconv.import_weights(tmp_path / "theirs", as_="hf:segformer", out=tmp_path / "model")
    assert "tells no mean and std of 5 bands: 0.5 and 0.25 are taken" in str(imported)
    model, image = fullyconv.load(tmp_path / "model").model, torch.rand(1, 5, 32, 64)
    with torch.no_grad():
        expected = F.interpolate(theirs((image - 0.5) / 0.25).logits, (32, 64), mode="bilinear")
        assert torch.allclose(model(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["torchvision:fcn_resnet50", "smp:Unet", "hf:segformer"])
def test_kernels_that_are_not_ours_cannot_be_kept(name: str, tmp_path: Path) -> None:
    with pytest.raises(FullyconvError, match=rf"SEG-T012 .*{name} keeps its own upsampling; leave --upscore out"):
        fullyconv.import_weights(tmp_path, as_=name, out=tmp_path / "model", upscore="all")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pretrained": True}, "--pretrained hub"),
        ({"upscore": "learned"}, "--upscore"),
        ({"dropout": 0.5}, "--dropout"),
        ({"alignment": "centred"}, "--alignment"),
        ({"geometry": "caffe"}, "--geometry"),
        ({"log_bands": [2]}, "log_bands"),
    ],
)
def test_options_that_another_toolkit_has_not_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(FullyconvError, match=rf"SEG-T012 .*built by its toolkit, .* and {named} is for .*; leave it"):
        create(LRASPP, 3, **options)


def test_measured_statistics_reach_another_toolkits_network() -> None:
    model = create(LRASPP, 3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert torch.cat((model.mean, model.std)).flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


@pytest.mark.parametrize("channels", [1, 5])
def test_torchvisions_networks_take_any_bands(channels: int) -> None:
    assert create(LRASPP, 2, channels=channels).eval()(torch.rand(1, channels, 32, 64)).shape == (1, 2, 32, 64)


def test_another_toolkits_network_starts_from_its_weights(tmp_path: Path) -> None:
    theirs = create(LRASPP, 3)
    save_file(theirs.network.state_dict(), tmp_path / "theirs.safetensors")
    save_file(theirs.state_dict(), tmp_path / "ours.safetensors")
    for file in ("theirs", "ours"):
        model = create(LRASPP, 3)
        taken = start_from(model, tmp_path / f"{file}.safetensors")
        assert not taken.dropped
        assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_score_channels_of_another_toolkit_are_not_cut() -> None:
    model = create(LRASPP, 3)
    assert head_of(model, 0, 3) is model
    for changed in (lambda: head_of(model, 1, 2), lambda: with_more_classes(model, 5)):
        with pytest.raises(ValueError, match=r"of another toolkit keeps its score channels; name another"):
            changed()


def test_what_is_no_segformer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small("segformer").save_pretrained(tmp_path / "theirs")
    options = {"out": tmp_path / "model"}
    with pytest.raises(FullyconvError, match=r"SEG-M023 .*no config.json of a upernet, but of segformer"):
        fullyconv.import_weights(tmp_path / "theirs", as_="hf:upernet", **options)
    with pytest.raises(FullyconvError, match=r"SEG-M023 .*there is no .*config.json; give the folder"):
        fullyconv.import_weights(tmp_path, as_="hf:segformer", **options)
    with pytest.raises(FullyconvError, match=r"SEG-M001 .*no hf:bert; there are hf:segformer, hf:upernet"):
        fullyconv.import_weights(tmp_path, as_="hf:bert", **options)
    config = tmp_path / "theirs" / "config.json"
    config.write_text(config.read_text().replace("circle", "square"))
    with pytest.raises(FullyconvError, match=r"SEG-M006 .*occur twice: square; list .* in --classes FILE"):
        fullyconv.import_weights(tmp_path / "theirs", as_="hf:segformer", **options)
    weights = tmp_path / "theirs" / "model.safetensors"
    held = load_file(weights)
    del held["decode_head.classifier.weight"]
    save_file(held, weights, metadata={"format": "pt"})
    with pytest.raises(FullyconvError, match=r"SEG-M023 .*no segmentation network: it lacks decode_head.classifier.w"):
        fullyconv.import_weights(tmp_path / "theirs", as_="hf:segformer", **options)
    weights.write_bytes(b"no weights")
    with pytest.raises(FullyconvError, match=r"SEG-M023 .*is no segformer that transformers can read"):
        fullyconv.import_weights(tmp_path / "theirs", as_="hf:segformer", **options)
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(FullyconvError, match=r"SEG-M023 .*there is no .*model.safetensors; .*safe_serialization=True"):
        fullyconv.import_weights(tmp_path / "theirs", as_="hf:segformer", **options)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(FullyconvError, match=r"SEG-M052.*pip install 'fullyconv\[hf\]'"):
        create("hf:segformer", 2)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--as", "torchvision:lraspp"], "SEG-M001  torchvision has no segmentation network 'lraspp'; the nearest are"),
        (["--as", "torchvision:fcn_resnet50"], "SEG-M023"),
        (["--as", LRASPP], "SEG-M006"),
    ],
)
def test_files_of_other_networks_are_refused(words, code, classes: Path, tmp_path: Path, capsys) -> None:
    theirs = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    words = ["import", str(tmp_path / "theirs.pth"), *words, "--out", str(tmp_path / "model")]
    assert main([*words, "--classes", str(classes)]) == 2
    assert code in capsys.readouterr().err
    assert main(words) == 2
    assert "--classes FILE" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_smp_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(FullyconvError, match=r"SEG-M052.*pip install segmentation-models-pytorch"):
        create("smp:Unet:resnet18", 2)
