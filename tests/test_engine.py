"""Every runtime gives the scores of the plain network, and the fastest one is remembered."""

import json
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import squares
from thin import make_thin
from torch import Tensor, nn

import fullyconv
from fullyconv import artefact, cli
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.models import FCN, create
from fullyconv.prediction import Segmenter, load
from fullyconv.runtimes import choice, computing
from fullyconv.runtimes.engine import Engine
from fullyconv.runtimes.graphs import Graphs

ARCHITECTURE = {"name": "fcn8s-test_resnet", "num_classes": 2}
LABELS = LabelSet(("ground", "square"))
SIZES = ((40, 52), (37, 53), (1, 1), (64, 64))


def network() -> FCN:
    """A network whose score layers, which start at zero, score, with norms that have seen something."""
    torch.manual_seed(0)
    model = create(**ARCHITECTURE)
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    model(torch.rand(2, 3, 64, 64))
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Segmenter(network(), LABELS, ARCHITECTURE).save(tmp_path / "net")
    return tmp_path / "net"


def scores(engine: Engine, size: tuple[int, int] = (40, 52), count: int = 1) -> Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return engine.scores(torch.rand(count, 3, *size).contiguous(memory_format=torch.channels_last))


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a fraction of the largest score."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("runtime", ["torch", "packed"])
def test_every_runtime_gives_the_networks_scores_at_every_size(runtime: Any) -> None:
    assert_exact(network(), runtime)


def test_so_does_a_runtime_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    make_thin(monkeypatch, "vgg16")
    torch.manual_seed(0)
    model = create("fcn32s-vgg16", 2).eval()
    nn.init.normal_(model.score_layers["stride32"].weight)
    assert_exact(model, "openvino")


def assert_exact(model: FCN, runtime: Any) -> None:
    engine = Engine(model, runtime)
    for size in SIZES:
        image = torch.rand(2, 3, *size)
        with torch.inference_mode():
            found, expected = engine.scores(image), model.scores(image)
        assert found.dtype == torch.float32
        assert off(found, expected) < 1e-4
    assert engine.chosen == runtime


def test_bf16_is_close_and_not_the_same() -> None:
    model = network()
    expected = scores(Engine(model, "torch"))
    for runtime in ("torch", "packed"):
        found = scores(Engine(model, runtime, "bf16"))  # type: ignore[arg-type]
        assert found.dtype == torch.float32
        assert 1e-4 < off(found, expected) < 0.05


def test_a_network_that_cannot_be_packed_is_computed_plainly() -> None:
    model = network()
    model.trunk = nn.Sequential(model.trunk)
    engine = Engine(model)
    expected = scores(Engine(model, "torch"))
    assert torch.equal(scores(engine), expected)
    assert engine.chosen == "torch"
    with pytest.raises(FullyconvError, match=r"SEG-P020 .*--runtime packed cannot .*; --runtime auto takes one"):
        scores(Engine(model, "packed"))


def test_a_network_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uncompiled(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise torch._dynamo.exc.InternalTorchDynamoError("InvalidCxxCompiler: no C++ compiler\nsee there")

    monkeypatch.setattr(torch, "compile", lambda trunk: Uncompiled())
    with pytest.raises(
        FullyconvError, match=r"SEG-P020 .*--runtime compile .*\(InvalidCxxCompiler: no C\+\+ compiler\)"
    ):
        scores(Engine(network(), "compile"))


def test_a_changed_weight_counts_at_once() -> None:
    model = network()
    engine = Engine(model, "packed")
    before = scores(engine)
    with torch.no_grad():
        for layer in model.score_layers.values():
            layer.weight *= 2
            layer.bias *= 2
    assert off(scores(engine), 2 * before) < 1e-4


def negated(model: FCN) -> dict[str, Tensor]:
    return {name: -tensor if "score" in name else tensor.clone() for name, tensor in model.state_dict().items()}


def step(model: FCN) -> None:
    """Of a fused optimiser, which tells no tensor that it has changed."""
    optimizer = torch.optim.AdamW(model.score_layers.parameters(), lr=1, fused=True)
    for parameter in model.score_layers.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


CHANGES: dict[str, Callable[[FCN], object]] = {
    "data": lambda model: [weight.data.neg_() for weight in model.score_layers.parameters()],
    "one of a bias": lambda model: next(model.score_layers.children()).bias.data[1].add_(50),  # type: ignore[union-attr]
    "other data": lambda model: [setattr(w, "data", -w.data) for w in model.score_layers.parameters()],
    "assigned": lambda model: model.load_state_dict(negated(model), assign=True),
    "fused step": step,
    "replaced layer": lambda model: model.score_layers.update(
        {"stride8": nn.Conv2d(model.score_layers["stride8"].in_channels, 2, 1)}  # type: ignore[arg-type]
    ),
    "replaced activation": lambda model: model.trunk.set_submodule("act1", nn.Tanh()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_is_changed_unseen_counts_at_once(change: str) -> None:
    model = network()
    engine = Engine(model, "packed")
    before = scores(engine)
    CHANGES[change](model)
    expected = scores(Engine(model, "torch"))
    assert off(before, expected) > 1e-2
    assert off(scores(engine), expected) < 1e-4


def test_a_network_that_stays_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = network().to(memory_format=torch.channels_last), []  # type: ignore[call-overload]
    monkeypatch.setitem(computing._MAKERS, "packed", lambda model, precision: made.append(1) or model.scores)
    engine = Engine(model, "packed")
    for _ in range(3):
        scores(engine)
    assert made == [1]


def test_the_reference_switches_every_runtime_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    monkeypatch.setenv("FULLYCONV_REFERENCE", "1")
    engine = Engine(model, "packed", "bf16")
    assert torch.equal(scores(engine), scores(Engine(model, "torch")))
    assert engine.chosen == "torch"


def test_the_fastest_runtime_is_remembered_for_this_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "CANDIDATES", ("torch", "packed"))
    found = load(folder, runtime="fastest")
    scores(found.engine)
    assert f"the fastest is {found.engine.chosen}" in capsys.readouterr().err
    (entry,) = json.loads((folder / "runtime.json").read_text())
    assert entry["fastest"] == found.engine.chosen
    assert set(entry["runtimes"]) == {"torch", "packed"}
    assert entry["size"] == [40, 52]
    for runtime in ("torch", "packed"):
        (folder / "runtime.json").write_text(json.dumps([{**entry, "fastest": runtime}]))
        again = load(folder)
        scores(again.engine)
        assert again.engine.chosen == runtime
    load(folder).save(folder)
    assert not (folder / "runtime.json").exists()


@pytest.mark.parametrize(
    "change",
    [{"processor": "another"}, {"threads": 99}, {"precision": "bf16"}, {"fastest": "os.system"}, {"versions": {}}],
)
def test_what_was_found_elsewhere_does_not_count(change: dict[str, Any], folder: Path) -> None:
    entry = {**choice._machine("fp32"), "fastest": "torch"}
    (folder / "runtime.json").write_text(json.dumps([{**entry, **change}]))
    engine = load(folder).engine
    scores(engine)
    assert engine.chosen == "packed"


def test_where_the_remembered_runtime_fails_at_the_image_another_computes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: np.ndarray) -> np.ndarray:
        raise RuntimeError("no kernel for this shape")

    monkeypatch.setattr(Graphs, "opened", lambda *_: fail)
    (folder / "runtime.json").write_text(json.dumps([{**choice._machine("fp32"), "fastest": "onnx"}]))
    engine = load(folder).engine
    scores(engine)
    assert engine.chosen == "packed"
    with pytest.raises(FullyconvError, match=r"SEG-P020 .*--runtime onnx cannot .*\(no kernel for this shape\)"):
        computing.start("onnx", network(), "fp32", torch.rand(1, 3, 40, 52), Graphs())


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[[]]"])
def test_a_damaged_memory_is_forgotten(text: str, folder: Path) -> None:
    (folder / "runtime.json").write_text(text)
    assert choice.remembered(folder, "fp32") is None


@pytest.mark.parametrize("runtime", ["torch", "packed"])
def test_weights_that_are_no_numbers_are_refused_before_an_activation_hides_them(runtime: Any) -> None:
    model = network()
    first = next(module for module in model.trunk.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(FullyconvError, match=r"SEG-P005.*NaN, first in trunk\..*weight; load another"):
        scores(Engine(model, runtime))


def test_a_folder_that_cannot_remember_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "CANDIDATES", ("torch",))
    (folder / "runtime.json").mkdir()  # no file can take its place
    scores(load(folder, runtime="fastest").engine)
    assert f"{folder} cannot remember it" in capsys.readouterr().err


def test_a_graph_that_cannot_be_removed_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "CANDIDATES", ("torch",))
    segmenter = load(folder, runtime="fastest")
    kept = Graphs(folder)._place(segmenter.model, "onnx", "fp32")
    assert kept is not None
    kept.mkdir()  # as files in a folder that may not be written to, it cannot be unlinked
    scores(segmenter.engine)
    assert segmenter.engine.chosen == "torch"
    assert f"{kept} stays: " in capsys.readouterr().err


def test_a_graph_is_kept_for_just_one_network() -> None:
    first, rewired = network(), network()
    for node in rewired.trunk.graph.nodes:
        node.target = operator.sub if node.target is operator.add else node.target
    rewired.trunk.recompile()
    changes: list[dict[str, Any]] = [{"alignment": "centred"}, {"name": "fcn8s-atonce-test_resnet"}]
    others = [create(**{**ARCHITECTURE, **change}).eval() for change in changes]
    for other in others:
        other.load_state_dict(first.state_dict())
    places = [Graphs(Path("net"))._place(model, "onnx", "fp32") for model in (first, rewired, *others)]
    assert len(set(places)) == 4
    assert places[0] == Graphs(Path("net"))._place(network(), "onnx", "fp32")


def test_a_runtime_that_is_not_exact_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "CANDIDATES", ("packed", "torch"))
    monkeypatch.setitem(computing._MAKERS, "packed", lambda model, precision: lambda image: 1.01 * model.scores(image))
    engine = Engine(network(), "fastest")
    scores(engine)
    assert engine.chosen == "torch"
    assert "packed is left out: its scores differ by 1e-02" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FullyconvError, match=r"SEG-U009 .*--runtime onnx needs onnxruntime.*'fullyconv\[onnx\]'"):
        Engine(network(), "onnx")


def test_a_precision_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-X001 .*--runtime onnx has no --precision bf16"):
        Engine(network(), "onnx", "bf16")
    monkeypatch.setattr(computing, "has_bf16", lambda: False)
    with pytest.raises(FullyconvError, match=r"SEG-X001 .*this processor"):
        Engine(network(), "packed", "bf16")


def test_the_commands_say_what_computed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = squares(tmp_path / "data", train=1, val=2)
    picture = next((data / "images").rglob("*.png"))
    words = ["predict", str(folder), str(picture), "--out", str(tmp_path / "masks"), "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["runtime"] == {"name": "packed", "precision": "fp32"}
    words = ["evaluate", str(folder), str(data), "--runtime", "torch", "--precision", "bf16", "--json"]
    assert cli.main(words) == 0
    assert "computed by torch in bf16" in json.loads(capsys.readouterr().out)["notes"]


def test_scores_do_not_depend_on_the_runtime(folder: Path, tmp_path: Path) -> None:
    data = squares(tmp_path / "data", train=1, val=3)
    plain, packed = (fullyconv.evaluate(folder, data, runtime=runtime) for runtime in ("torch", "packed"))
    assert torch.equal(plain.confusion, packed.confusion)
    assert plain.notes == packed.notes


def test_another_engine_serves_all_heads(tmp_path: Path) -> None:
    labels = {"first": LABELS, "second": LabelSet(("up", "down", "left"))}
    architecture = {"name": "fcn8s-test_resnet", "num_classes": 5}
    artefact.save(tmp_path / "net", create(**architecture), LABELS, architecture, heads=labels)
    found = load(tmp_path / "net", head="second", runtime="torch", precision="bf16")
    assert found.labels == labels["second"]
    assert [head.engine.precision for head in found.heads.values()] == ["bf16", "bf16"]
