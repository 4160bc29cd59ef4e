"""Graphs of a network: made once, kept in its model folder; in int8 measured on images, and the same in tiles."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import squares
from torch import nn

from fullyconv import cli
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.models import create
from fullyconv.prediction import Segmenter, load
from fullyconv.prediction.calibration import COUNT, SIDE, Samples
from fullyconv.runtimes.engine import Engine

pytest.importorskip("openvino")
pytest.importorskip("nncf")

ARCHITECTURE = {"name": "fcn8s-test_resnet", "num_classes": 2}
LABELS = LabelSet(("ground", "square"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("squares"), train=4, val=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights that scores, with norms that have seen something."""
    torch.manual_seed(0)
    model = create(**ARCHITECTURE)  # type: ignore[arg-type]
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    model(torch.rand(2, 3, 64, 64))
    scores = model.eval()(torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255)
    model.score_layers["stride8"].bias.data -= scores.mean((0, 2, 3))  # so that both classes occur
    folder = tmp_path_factory.mktemp("saved") / "net"
    Segmenter(model, LABELS, ARCHITECTURE).save(folder)
    return folder


@pytest.fixture(scope="module")
def quantized(saved: Path, data: Path) -> Segmenter:
    """In int8, after a first image; its folder keeps it."""
    segmenter = load(saved, precision="int8", calibrate=data)
    segmenter(picture())
    return segmenter


def picture(height: int = 90, width: int = 117) -> np.ndarray:
    """A bright square on noise, as in `squares`."""
    pixels = np.random.default_rng(0).integers(0, 120, (height, width, 3), dtype=np.uint8)
    pixels[20:70, 30:90] += 120
    return pixels


def test_labels_of_int8_are_those_of_the_network_but_for_few(quantized: Segmenter, saved: Path) -> None:
    found, expected = quantized(picture()).mask, load(saved)(picture()).mask
    assert 0.1 < expected.mean() < 0.9
    assert 0.9 < (found == expected).mean() < 1
    assert quantized.engine.to_json() == {"name": "openvino", "precision": "int8"}


def test_tiles_in_int8_are_the_whole(quantized: Segmenter) -> None:
    image = picture(160, 200)
    assert np.array_equal(quantized(image, tile=64).mask, quantized(image, tile="none").mask)


def test_the_folder_keeps_the_network_in_int8(
    quantized: Segmenter, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = load(saved, precision="int8")
    assert np.array_equal(again(picture()).mask, quantized(picture()).mask)
    assert capsys.readouterr().err == ""  # nothing is measured again


def test_a_graph_in_fp32_is_written_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(saved, runtime="openvino")(picture()).mask
    monkeypatch.setattr("fullyconv.runtimes.graphs.write", None)
    assert np.array_equal(load(saved, runtime="openvino")(picture()).mask, first)
    changed = load(saved, runtime="openvino")
    changed.model.trunk.set_submodule("act1", nn.Tanh())
    with pytest.raises(FullyconvError, match="SEG-P020"):  # as it would have to be written
        changed(picture())


def test_a_damaged_graph_in_fp32_is_written_anew(saved: Path, tmp_path: Path) -> None:
    load(saved).save(tmp_path / "net")
    first = load(tmp_path / "net", runtime="openvino")(picture()).mask
    (kept,) = (tmp_path / "net").glob("graph-fp32-*.xml")
    kept.write_text("<net")
    assert np.array_equal(load(tmp_path / "net", runtime="openvino")(picture()).mask, first)
    assert kept.stat().st_size > 100


def test_what_is_kept_counts_for_its_own_weights_only(quantized: Segmenter, saved: Path) -> None:
    other = load(saved, precision="int8")
    with torch.no_grad():
        next(other.model.parameters()).mul_(2)
    with pytest.raises(FullyconvError, match=r"SEG-X002 .*say --calibrate DATA .* keeps none of this network"):
        other(picture())


def test_a_damaged_file_is_named(quantized: Segmenter, saved: Path, tmp_path: Path) -> None:
    load(saved).save(tmp_path / "net")
    (kept,) = saved.glob("graph-int8-*.xml")
    (tmp_path / "net" / kept.name).write_text("<net")
    with pytest.raises(FullyconvError, match=r"SEG-X002 .*say --calibrate DATA \(.*int8-\w+\.xml cannot be read"):
        load(tmp_path / "net", precision="int8")(picture())


def test_a_model_that_is_saved_again_keeps_nothing_old(quantized: Segmenter, saved: Path, tmp_path: Path) -> None:
    load(saved).save(tmp_path / "net")
    for kept in saved.glob("graph-*"):
        (tmp_path / "net" / kept.name).write_bytes(kept.read_bytes())
    load(tmp_path / "net").save(tmp_path / "net")
    assert not list((tmp_path / "net").glob("graph-*"))


def test_onnx_computes_in_int8_where_openvino_is_not(saved: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    segmenter = load(saved, precision="int8", calibrate=data / "images" / "train")
    assert (segmenter(picture()).mask == load(saved)(picture()).mask).mean() > 0.9
    assert segmenter.engine.chosen == "onnx"


def test_int8_needs_images_first(saved: Path, data: Path, tmp_path: Path) -> None:
    load(saved).save(tmp_path / "net")
    with pytest.raises(FullyconvError, match=r"SEG-X002 .*say --calibrate DATA .*net keeps none"):
        load(tmp_path / "net", precision="int8")(picture())
    with pytest.raises(FullyconvError, match=r"SEG-X002 .*--precision int8 --calibrate DATA"):
        load(saved, calibrate=data)


def test_the_fastest_of_none_says_what_the_first_lacks(saved: Path, tmp_path: Path) -> None:
    load(saved).save(tmp_path / "net")
    with pytest.raises(FullyconvError, match=r"SEG-X002 .*say --calibrate DATA"):
        load(tmp_path / "net", runtime="fastest", precision="int8")(picture())


def test_a_place_without_images_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-X002 .*holds no images, and no data of a known layout"):
        load(saved, precision="int8", calibrate=tmp_path)
    photo = tmp_path / "photo.png"
    Image.fromarray(picture()).save(photo)
    assert len(Samples(photo, (3,), "float")) == 1


def test_measuring_for_openvino_takes_nncf(saved: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(FullyconvError, match=r"SEG-U009 .*nncf.*'fullyconv\[openvino\]'"):
        load(saved, runtime="openvino", precision="int8", calibrate=data)(picture())


def test_int8_is_refused_where_it_is_not(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-X001 .*--runtime packed has no --precision int8; .*openvino"):
        load(saved, runtime="packed", precision="int8")
    for package in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FullyconvError, match=r"SEG-U009 .*--precision int8 .*needs openvino.*'fullyconv\[openvino\]'"):
        load(saved, precision="int8")


def test_commands_take_and_tell_int8(
    saved: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(saved).save(tmp_path / "net")
    words = ["evaluate", str(tmp_path / "net"), str(data), "--precision", "int8", "--calibrate", str(data), "--json"]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert "computed by openvino in int8" in json.loads(told.out)["notes"]
    assert "for openvino, with ranges for int8 from 4 images, once" in told.err
    photo = next((data / "images").rglob("*.png"))
    words = ["predict", str(tmp_path / "net"), str(photo), "--out", str(tmp_path / "out"), "--precision", "int8"]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runtime"] == {"name": "openvino", "precision": "int8"}


def test_samples_are_from_all_over_and_no_larger_than_needed(tmp_path: Path) -> None:
    for index in range(2 * COUNT + 1):
        Image.new("RGB", (2, 1), (index, 0, 0)).save(tmp_path / f"{index:03d}.png")
    samples = Samples(tmp_path, (3,), "uint8")
    reds = [int(sample[0, 0, 0, 0]) for sample in samples]
    assert len(reds) == COUNT
    assert (reds[0], reds[-1]) == (0, 2 * COUNT)
    assert set(np.diff(reds)) <= {2, 3}
    wide = np.arange(SIDE + 4, dtype=np.uint16)[None].repeat(2, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (tmp_path / "one").mkdir()
    (tmp_path / "wide.png").rename(tmp_path / "one" / "wide.png")
    (middle,) = Samples(tmp_path / "one", (1,), "float")
    assert middle.shape == (1, 2, SIDE, 1)
    assert round(float(middle[0, 0, 0, 0]) * 65535) == 2


def test_the_reference_is_in_fp32(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLYCONV_REFERENCE", "1")
    model = load(saved).model
    image = torch.rand(1, 3, 40, 52)
    assert torch.equal(Engine(model, precision="int8").scores(image), model.scores(image))
