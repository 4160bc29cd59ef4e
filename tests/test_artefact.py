"""The model folder as files."""

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullyconv
from fullyconv.artefact import write_tensors
from fullyconv.errors import FullyconvError


def test_weights_may_be_read_by_whoever_may_read_other_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640


@contextmanager
def small_files() -> Iterator[None]:
    """Lets the system refuse what goes beyond 1000 bytes of a file, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    with small_files(), pytest.raises(OSError, match=r"File too large: '.*/model\.safetensors'") as held:
        write_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(1000)})
    assert held.value.errno == errno.EFBIG


class Scaled(nn.Module):
    """A classifier whose graph has a node of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(nn.Conv2d(3, 4, 3, 8, 1)), nn.Linear(4, 3)
        self.factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, image: Tensor) -> Tensor:
        return self.last(torch.clamp(self.body(image), min=0).add(self.factor).mean((2, 3)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fullyconv.convert(Scaled(), classes=2, size=8, stride=8).save(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_that_cannot_be_written_leaves_the_one_before(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with small_files(), pytest.raises(OSError, match="File too large"):
        fullyconv.convert(Scaled(), classes=2, size=8, stride=8).save(folder)
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "model.safetensors").read_bytes() == before


CODE = "__import__('pathlib').Path('sprung').touch()"


@pytest.mark.parametrize(
    ("op", "change"),
    [
        ("placeholder", {"target": f"image={CODE}"}),
        ("placeholder", {"target": "class"}),
        ("placeholder", {"name": f"image = {CODE}"}),
        ("call_module", {"target": f'body.0", {CODE}), getattr(self.body, "0'}),
        ("call_module", {"target": "body.0.forward"}),
        ("get_attr", {"target": f'factor"), {CODE}, getattr(self, "factor'}),
        ("get_attr", {"target": "body.__init__.__globals__"}),
        ("call_function", {"kwargs": {"dict": {f"max={CODE}, min": 0}}}),
        ("call_function", {"kwargs": {"dict": {"min": {"dtype": "load"}}}}),
        ("call_function", {"target": "torch:load"}),
        ("call_function", {"target": "torch.nn.functional:boolean_dispatch"}),
        ("call_method", {"target": "register_hook"}),
        ("call_method", {"target": f"add({CODE}).add"}),
        ("output", {"op": "root"}),
    ],
)
def test_a_folder_from_elsewhere_runs_nothing(
    op: str, change: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((folder / "config.json").read_text())
    graph = config["architecture"]["graph"]
    next(node for node in graph["nodes"] if node["op"] == op).update(change)
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(folder.parent)
    with pytest.raises(FullyconvError, match=r"SEG-M011 .*config.json is damaged .*copy the folder again"):
        fullyconv.load(folder)
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"format": 1', b'"format": 2', "format 2, .* format 1; update fullyconv"),
        (b"Conv2d", b"Evil", "Evil is no layer of torch.nn"),
        (b"class 1", b"class 0", "occur twice: class 0"),
        (b"class 1", b"class \xff", "config.json is damaged .*utf-8"),
    ],
)
def test_what_load_cannot_read_is_said(old: bytes, new: bytes, told: str, folder: Path) -> None:
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes().replace(old, new))
    with pytest.raises(FullyconvError, match=f"SEG-M011 .*{told}"):
        fullyconv.load(folder)


def test_a_folder_from_elsewhere_names_layers_by_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f'body.0", {CODE}), getattr(self.body, "0'
    text = (folder / "config.json").read_text().replace('"body.0"', json.dumps(name))
    (folder / "config.json").write_text(text)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(FullyconvError, match=r"SEG-M011 .*is no name of a layer"):
        fullyconv.load(folder)
    assert not Path("sprung").exists()
