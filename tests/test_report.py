"""The page of a run: whole, self-contained, and true to what lies in the folder."""

import html.parser
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv import charts
from fullyconv.labels import LabelSet
from fullyconv.report import read_records, write_report

LABELS = LabelSet(("sky & sea", "<road>", "tree"))


class Page(html.parser.HTMLParser):
    """Tags, sources and text of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(file.read_text())
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def records(steps: int = 60) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        loss, lr = 2 * math.exp(-step / 20) + 0.1, 1e-3 * (1 - step / steps)
        lines.append({"kind": "train", "step": step, "loss": loss, "lr": lr, "seconds": 6.0 * step, "images": 8 * step})
        if step % 20 == 0:
            scores = dict.fromkeys(("mean_accuracy", "frequency_weighted_iou", "pixel_accuracy"), 0.9)
            lines.append({"kind": "validation", "step": step, "mean_iou": step / 100, **scores})
    return lines


def values() -> dict[str, object]:
    return {
        "pixel_accuracy": 0.9,
        "mean_accuracy": 0.8,
        "mean_iou": 0.6543,
        "frequency_weighted_iou": 0.85,
        "classes": [
            {"name": LABELS.names[0], "iou": 0.75, "accuracy": 0.8, "pixels": 900},
            {"name": LABELS.names[1], "iou": 0.55, "accuracy": 0.6, "pixels": 100},
            {"name": LABELS.names[2], "iou": None, "accuracy": None, "pixels": 0},
        ],
        "conventions": {"paper": 0.6543, "smp_micro": 0.81, "torchvision": None},
        "mean_iou_interval": [0.61, 0.69],
        "images": 7,
        "title": "runs/a on data, split val",
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder as training leaves it."""
    run = tmp_path / "run"
    evaluation = run / "evaluation"
    (evaluation / "plots").mkdir(parents=True)
    (evaluation / "worst").mkdir()
    (evaluation / "report.json").write_text(json.dumps(values()))
    charts.save(charts.confusion(np.diag([5, 3, 0]), LABELS.names), evaluation / "plots" / "confusion.png")
    Image.new("RGB", (2000, 500), "red").save(evaluation / "worst" / "01_12.5_frame_7.png")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records()))
    plan = {
        "data": "data/",
        "architecture": {"name": "fcn8s-resnet18"},
        "recipe": {
            "optimizer": "adamw",
            "learning_rate": 0.001,
            "schedule": "poly",
            "batch": 8,
            "loss": "cross_entropy",
            "balance": "log",
        },
        "class_weights": [1.0] * 20,
        "pretrained": "none",
    }
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "env.json").write_text(json.dumps({"torch": "2.15.0", "gpu": None}))
    return run


def test_the_page_tells_the_whole_run(run_folder: Path) -> None:
    page = Page(write_report(run_folder))
    for told in (
        "fcn8s-resnet18",
        "65.4",
        "61.0 and 69.0",
        "60 steps, 480 images; 6.0 minutes",
        "random weights",
        "2.15.0",
    ):
        assert told in page.text, told
    for section in ("How it was trained", "Classes", "What is taken for what", "The worst images", "Environment"):
        assert section in page.text, section
    assert "1. frame_7: mean IoU 12.5" in page.text
    assert "all classes pooled" in page.text


def test_the_page_needs_nothing_from_outside(run_folder: Path) -> None:
    file = write_report(run_folder)
    page = Page(file)
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "<script" not in file.read_text()
    assert "http" not in file.read_text()


def test_names_cannot_break_the_page(run_folder: Path) -> None:
    page = Page(write_report(run_folder))
    assert "<road>" in page.text
    assert "sky & sea" in page.text


def test_the_run_gets_its_curves(run_folder: Path) -> None:
    write_report(run_folder)
    with Image.open(run_folder / "plots" / "curves.png") as picture:
        assert picture.width > 600


def test_an_evaluation_alone_has_a_page_too(run_folder: Path) -> None:
    page = Page(write_report(run_folder / "evaluation"))
    assert "runs/a on data, split val" in page.text
    assert "How it was trained" not in page.text


def test_steps_after_the_last_noted_one_count(run_folder: Path) -> None:
    with (run_folder / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps(records(60)[-1] | {"step": 67}) + "\n")
    assert (
        "67 steps, 536 images; 6.0 minutes up to step 60, 1.3 images a second." in Page(write_report(run_folder)).text
    )


def test_a_run_cut_short_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(records()[0]) + '\n{"kind": "tra')
    assert "Not evaluated yet" in Page(write_report(tmp_path)).text


def test_an_unfinished_last_line_is_left_out_and_a_broken_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"st')
    assert read_records(file) == [{"step": 1}]
    file.write_text('{"st\n{"step": 1}\n')
    with pytest.raises(json.JSONDecodeError):
        read_records(file)
