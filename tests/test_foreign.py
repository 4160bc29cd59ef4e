"""Networks of other toolkits: their logits, from their files."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import fullyconv
from fullyconv.cli import main
from fullyconv.errors import FullyconvError
from fullyconv.means import IMAGENET_MEAN, IMAGENET_STD
from fullyconv.models import create

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
    words = ["import", str(tmp_path / "theirs.pth"), "--as", "torchvision:lraspp_mobilenet_v3_large"]
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


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--as", "torchvision:lraspp"], "SEG-M001  torchvision has no segmentation network 'lraspp'; the nearest are"),
        (["--as", "torchvision:fcn_resnet50"], "SEG-M023"),
        (["--as", "torchvision:lraspp_mobilenet_v3_large"], "SEG-M006"),
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
