"""Exported files give what the network gives, at every size, in every runtime that is installed."""

import contextlib
import copy
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from thin import make_thin
from torch import Tensor, nn

import fullyconv
from fullyconv import cli
from fullyconv.errors import FullyconvError
from fullyconv.exporting import Parity
from fullyconv.exporting.carried import carried
from fullyconv.labels import LabelSet
from fullyconv.models import FCN, create
from fullyconv.prediction import Segmenter
from fullyconv.runtimes.formats import SUFFIXES, opened, refuse_impossible, write
from fullyconv.runtimes.pipeline import Pipeline, traced

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CLASSES = 5
LABELS = LabelSet(tuple(f"class {number}" for number in range(CLASSES)))
SIZES = [(1, 1), (37, 53), (64, 64), (101, 75), (17, 200)]
NETS: dict[str, dict[str, Any]] = {
    "resnet": {"name": "fcn8s-test_resnet"},
    "transformer": {"name": "fcn16s-test_vit"},
    "vgg": {"name": "fcn8s-vgg16", "upscore": "learned"},
    "caffe": {"name": "fcn8s-vgg16", "geometry": "caffe"},
    "depth": {"name": "fcn32s-vgg16", "channels": 4, "streams": (3, 1), "log_bands": [3]},
}
SMALL = {"name": "fcn32s-vgg16", "num_classes": CLASSES}


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_thin(patch, "vgg16")
        yield


def network(**options: Any) -> FCN:
    """A network whose score layers, which start at zero, score."""
    torch.manual_seed(0)
    model = create(**{"num_classes": CLASSES, **options}).eval()
    for part in model.modules():
        if isinstance(part, FCN):
            for layer in part.score_layers.values():
                nn.init.normal_(layer.weight, std=layer.weight.shape[1] ** -0.5)
    return model


@pytest.fixture(scope="module")
def segmenter(thin: None) -> Segmenter:
    return Segmenter(network(**SMALL), LABELS, SMALL, {"licence": "of the parents"})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of noise with masks."""
    root = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    (root / "classes.json").write_text(json.dumps(list(LABELS.names)))
    for name in "abc":
        Image.fromarray(noise.integers(0, 256, (40, 52, 3), np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(noise.integers(0, CLASSES, (40, 52), np.uint8)).save(root / "masks" / f"{name}.png")
    return root


@cache
def graph_of(name: str) -> tuple[Pipeline, torch.export.ExportedProgram]:
    """A network's pipeline and its graph, traced once for all formats."""
    pipeline = Pipeline(network(**NETS[name]), output="logits")
    return pipeline, traced(pipeline, "uint8")


def assert_same(pipeline: Pipeline, run: Any, size: tuple[int, int], count: int = 1) -> None:
    image = pipeline.example(count, *size, "uint8")
    expected = pipeline(image)
    torch.testing.assert_close(
        torch.from_numpy(run(image.numpy())), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )


@pytest.mark.parametrize(
    ("net", "format"),
    [
        ("resnet", "onnx"),
        ("resnet", "torch"),
        ("vgg", "onnx"),
        ("vgg", "torch"),
        ("vgg", "openvino"),
        ("caffe", "onnx"),
        ("caffe", "torch"),
        ("depth", "onnx"),
        ("transformer", "onnx"),
    ],
)
def test_files_give_the_networks_logits_at_every_size_and_its_labels(net: str, format: Any, tmp_path: Path) -> None:
    pytest.importorskip(format)
    pipeline, program = graph_of(net)
    file = tmp_path / f"model{SUFFIXES[format]}"
    write(program, file, format, {"labels": LABELS.to_dict()})
    run = opened(file, format, "fp32")
    for size in SIZES:
        assert_same(pipeline, run, size)
    assert_same(pipeline, run, (40, 40), count=3)
    labels = json.loads(json.dumps(LABELS.to_dict()))
    assert json.loads(text_in(file, format, "labels")) == labels
    assert carried(file, format, ["labels"]) == {"labels": labels}


def test_the_pipeline_gives_the_logits_of_the_model(segmenter: Segmenter) -> None:
    pipeline = Pipeline(segmenter.model, output="logits")
    image = pipeline.example(1, 37, 53, "uint8")
    expected = segmenter.model(image.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(pipeline(image), expected)
    torch.testing.assert_close(pipeline(pipeline.example(1, 37, 53, "float")), expected)


def test_labels_are_the_highest_logits(segmenter: Segmenter) -> None:
    labels, logits = (Pipeline(segmenter.model, output=output) for output in ("labels", "logits"))
    image = labels.example(2, 37, 53, "uint8")
    assert labels(image).dtype == torch.uint8
    assert torch.equal(labels(image).long(), logits(image).argmax(1))


@pytest.fixture(scope="module")
def exported(segmenter: Segmenter, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The file that the command wrote beside a model folder, and what it printed."""
    model = tmp_path_factory.mktemp("models") / "net"
    segmenter.save(model)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert cli.main(["export", str(model), "--verify", str(data), "--split", "train", "--json"]) == 0
    return model.with_name("net-onnx-fp32") / "model.onnx", json.loads(told.getvalue())


def test_the_command_writes_one_file_and_its_parity(
    exported: tuple[Path, Any], segmenter: Segmenter, data: Path
) -> None:
    file, told = exported
    assert told["file"] == str(file)
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.onnx", "parity.json"]
    assert json.loads((file.parent / "parity.json").read_text()) == told["parity"]
    assert told["parity"]["pixel_agreement"] > 0.999
    assert json.loads(text_in(file, "onnx", "provenance"))["licence"] == "of the parents"
    report = fullyconv.evaluate(segmenter, data, split="train")
    assert told["parity"]["mean_iou"]["model"] == report.scores["mean_iou"]


def test_a_file_that_stands_is_measured_as_it_is(
    exported: tuple[Path, Any], segmenter: Segmenter, data: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copy2(exported[0], tmp_path / "a.onnx"))
    before = file.read_bytes()
    measured = fullyconv.export(segmenter, out=file, verify=data, split="train")
    assert measured.parity is not None
    assert json.loads((tmp_path / "a.onnx.parity.json").read_text()) == measured.parity.to_json()
    other = Segmenter(copy.deepcopy(segmenter.model), LABELS, SMALL)
    other.model.score_layers["stride32"].bias.data += 1  # type: ignore[union-attr, operator]
    with pytest.raises(FullyconvError, match=r"SEG-U008 .*differs from what would be written in its weights; move"):
        fullyconv.export(other, out=file, verify=data, split="train")
    with pytest.raises(FullyconvError, match=r"SEG-U008 .*differs .*in its output"):
        fullyconv.export(segmenter, out=file, verify=data, split="train", output="logits")
    assert file.read_bytes() == before
    file.write_text("mine")
    with pytest.raises(FullyconvError, match=r"SEG-U008 .* is no file that export wrote"):
        fullyconv.export(segmenter, out=file, verify=data, split="train")


def test_options_of_the_measurement_need_data(segmenter: Segmenter) -> None:
    for options in ({"split": "train"}, {"budget": 1.0}):
        with pytest.raises(FullyconvError, match=r"SEG-X005 .*--verify DATA; give it"):
            fullyconv.export(segmenter, **options)


def test_data_that_cannot_be_scored_are_refused_before_anything_is_exported(
    segmenter: Segmenter, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("fullyconv.exporting.exported.traced", never)
    strange = Segmenter(segmenter.model, LabelSet(tuple("vwxyz")), SMALL)
    for code, asked in (("SEG-D001", tmp_path / "none"), ("SEG-D005", data), ("SEG-E004", data)):
        model = strange if code == "SEG-E004" else segmenter
        split = "test" if code == "SEG-D005" else "train"
        with pytest.raises(FullyconvError, match=code):
            fullyconv.export(model, verify=asked, split=split, out=tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_file_is_refused_before_anything_is_exported(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("fullyconv.exporting.exported.traced")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        fullyconv.export(segmenter, out=tmp_path / "file" / "a.onnx")


def test_a_file_beyond_its_budget_exits_1(
    exported: tuple[Path, Any], segmenter: Segmenter, data: Path, tmp_path: Path
) -> None:
    segmenter.save(tmp_path / "net")
    shutil.copytree(exported[0].parent, tmp_path / "net-onnx-fp32")
    words = ["--verify", str(data), "--split", "train", "--budget", "-1"]
    assert cli.main(["export", str(tmp_path / "net"), *words]) == 1


def test_parity_tells_the_delta_of_each_class() -> None:
    model, file = torch.tensor([[8, 0], [0, 2]]), torch.tensor([[8, 0], [1, 1]])
    common = torch.tensor([[8, 0], [1, 1]])
    parity = Parity(LabelSet(("road", "sky")), model, file, common, 1, budget=1.0)
    told = parity.to_json()
    assert told["pixel_agreement"] == 0.9
    assert [row["delta"] for row in told["classes"]] == pytest.approx([8 / 9 - 1, 1 / 2 - 1])
    assert parity.delta == pytest.approx((8 / 9 + 1 / 2) / 2 - 1)
    assert not parity.within
    assert "budget of 1 points of mean IoU is exceeded" in str(parity)


def test_int8_quantises_every_convolution_but_those_that_score(
    segmenter: Segmenter, data: Path, tmp_path: Path
) -> None:
    exported = fullyconv.export(
        segmenter, precision="int8", calibrate=data / "images", out=tmp_path / "a.onnx", output="logits"
    )
    nodes = onnx.load(exported.file).graph.node
    made = {output: node for node in nodes for output in node.output}
    plain = [
        node.input[1] for node in nodes if node.op_type == "Conv" and made.get(node.input[1], node).op_type == "Conv"
    ]
    assert len(plain) == 1
    assert "score_layers" in plain[0]
    pipeline = Pipeline(segmenter.model, output="logits")
    image = pipeline.example(1, 37, 53, "uint8")
    error = pipeline(image) - torch.from_numpy(opened(exported.file, "onnx", "int8")(image.numpy()))
    assert 0 < float(error.std() / pipeline(image).std()) < 0.2


def test_int8_of_openvino_is_close(segmenter: Segmenter, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    exported = fullyconv.export(
        segmenter, format="openvino", precision="int8", calibrate=data, out=tmp_path / "a.xml", output="logits"
    )
    pipeline = Pipeline(segmenter.model, output="logits")
    image = pipeline.example(1, 37, 53, "uint8")
    error = pipeline(image) - torch.from_numpy(opened(exported.file, "openvino", "int8")(image.numpy()))
    assert 0 < float(error.std() / pipeline(image).std()) < 0.2


def test_bf16_computes_in_half_precision(segmenter: Segmenter, tmp_path: Path) -> None:
    exported = fullyconv.export(
        segmenter, format="torch", precision="bf16", output="logits", image="float", out=tmp_path / "a.pt2"
    )
    pipeline = Pipeline(segmenter.model, output="logits")
    image = pipeline.example(1, 37, 53, "float")
    error = pipeline(image) - torch.from_numpy(opened(exported.file, "torch", "bf16")(image.numpy()))
    assert 1e-4 < float(error.std() / pipeline(image).std()) < 0.05


def text_in(file: Path, format: str, name: str) -> str:
    """A fact in a file, read by its own runtime's means."""
    if format == "onnx":
        return str({entry.key: entry.value for entry in onnx.load(file).metadata_props}[name])
    if format == "openvino":
        import openvino

        return str(openvino.Core().read_model(file).get_rt_info(["fullyconv", name]).astype(str))
    extra = {"fullyconv.json": ""}
    torch.export.load(file, extra_files=extra)
    return str(json.loads(extra["fullyconv.json"])[name])


@pytest.mark.parametrize(("format", "precision"), [("onnx", "bf16"), ("torch", "int8")])
def test_a_precision_that_the_format_has_not_is_refused(format: Any, precision: Any) -> None:
    with pytest.raises(FullyconvError, match=rf"SEG-X001 .*--format {format} .*; use --format .*openvino"):
        refuse_impossible(format, precision)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FullyconvError, match=r"SEG-U009 .*onnxruntime.*pip install 'fullyconv\[onnx\]'"):
        refuse_impossible("onnx", "fp32")


def test_int8_without_images_is_refused_and_images_without_int8(segmenter: Segmenter, data: Path) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-X002"):
        fullyconv.export(segmenter, precision="int8")
    with pytest.raises(FullyconvError, match=r"SEG-X002"):
        fullyconv.export(segmenter, calibrate=data)


def test_another_ending_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-X004 .*ends in \.xml; --out a\.onnx does not"):
        fullyconv.export(segmenter, format="openvino", out="a.onnx")


def test_an_existing_file_stays(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(FullyconvError, match=r"SEG-U008 .*a\.onnx exists already"):
        fullyconv.export(segmenter, out=tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "mine"


class Moody(nn.Module):
    """A trunk whose maps depend on how the image is."""

    def __init__(self, trunk: nn.Module, mood: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.mood = mood

    def forward(self, image: Tensor) -> list[Tensor]:
        return [features * self.mood(image) for features in self.trunk(image)]


@pytest.mark.parametrize("mood", [lambda image: int(image.shape[3] > 100), lambda image: int(image.mean() > 0)])
def test_a_network_that_decides_by_its_image_is_refused(mood: Any, tmp_path: Path) -> None:
    model = network(**SMALL)
    model.trunk = Moody(model.trunk, mood)
    with pytest.raises(FullyconvError, match=r"SEG-X003 .*cannot be exported for images of every size"):
        fullyconv.export(Segmenter(model, LABELS), format="torch", output="logits", out=tmp_path / "new" / "a.pt2")
    assert list(tmp_path.iterdir()) == []


def test_an_untrained_network_is_refused_as_a_trained_one_would_be(tmp_path: Path) -> None:
    model = create(**SMALL)
    model.trunk = Moody(model.trunk, lambda image: int(image.shape[3] > 100))
    with pytest.raises(FullyconvError, match=r"SEG-X003 .*the graph's result differs from the network's"):
        fullyconv.export(Segmenter(model, LABELS), format="torch", output="logits", out=tmp_path / "a.pt2")


def test_files_of_several_formats_stand_in_one_folder(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_text("of an a.xml")
    assert fullyconv.export(segmenter, out=tmp_path / "a.onnx").file.is_file()
    with pytest.raises(FullyconvError, match=r"SEG-U008 .*a\.bin exists already"):
        fullyconv.export(segmenter, format="openvino", out=tmp_path / "a.xml")
    assert (tmp_path / "a.bin").read_text() == "of an a.xml"
