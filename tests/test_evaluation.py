"""Models and folders of masks scored: right numbers, whole folders, faults that are named."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fullyconv import metrics
from fullyconv.datasets import Dataset, Pair
from fullyconv.datasets.overlap import Seen
from fullyconv.errors import FullyconvError
from fullyconv.evaluation import Report, Tally, View, count, evaluate, score
from fullyconv.labels import LabelSet
from fullyconv.models import create
from fullyconv.models.foreign import ForeignNet
from fullyconv.prediction import Segmenter

LABELS = LabelSet(("grass", "sea", "stone"))
TRUTH = [np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8), np.array([[1, 1], [2, 2], [2, 2]], np.uint8)]
PRED = [np.array([[0, 0, 1, 1], [0, 1, 1, 0]], np.uint8), np.array([[1, 1], [2, 2], [0, 0]], np.uint8)]


class Reds(nn.Module):
    """Scores of which the highest is that of the class that is written in the image: red is ten times the class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classes = torch.arange(num_classes).view(1, -1, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return -(image[:, :1] * 255 / 10 - self.classes).abs()


class Reader(Segmenter):
    """A model that predicts what is written in the image."""

    def __init__(self, labels: LabelSet = LABELS, facts: dict[str, Any] | None = None) -> None:
        network = ForeignNet(Reds(len(labels)), len(labels), mean=(0, 0, 0), std=(1, 1, 1))
        super().__init__(network, labels, facts=facts)


def write(folder: Path, masks: list[np.ndarray]) -> None:
    folder.mkdir()
    for index, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"frame{index}.png")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two images of unlike size with masks, split val; split test has no masks."""
    write(tmp_path / "masks", TRUTH)
    write(tmp_path / "images", [np.repeat(10 * mask[..., None], 3, axis=2) for mask in PRED])
    files = sorted((tmp_path / "images").iterdir())
    pairs = tuple(Pair(file.stem, file, tmp_path / "masks" / file.name) for file in files)
    bare = tuple(Pair(file.stem, file, None) for file in files)
    return Dataset("folder", tmp_path, LABELS, {"val": pairs, "test": bare})


def expected() -> torch.Tensor:
    return torch.tensor([[3, 1, 0], [0, 5, 0], [2, 0, 2]])


def test_evaluate_counts_what_the_model_predicts(dataset: Dataset) -> None:
    report = evaluate(Reader(), dataset)
    assert torch.equal(report.confusion, expected())
    assert report.scores == metrics.scores(expected())


def test_the_json_has_the_keys_of_the_contract(dataset: Dataset) -> None:
    values = evaluate(Reader(), dataset).to_json()
    assert values["pixel_accuracy"] == pytest.approx(10 / 13)
    assert values["mean_iou"] == pytest.approx((3 / 6 + 5 / 6 + 2 / 4) / 3)
    assert values["classes"][2] == {"name": "stone", "iou": 0.5, "accuracy": 0.5, "pixels": 4}
    assert values["images"] == 2
    assert values["conventions"].keys() == metrics.CONVENTIONS.keys()
    assert len(values["mean_iou_interval"]) == 2
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_scores_that_do_not_exist_are_none(dataset: Dataset) -> None:
    wide = LabelSet((*LABELS.names, "never"))
    values = evaluate(Reader(wide), dataset).to_json()
    assert values["classes"][3] == {"name": "never", "iou": None, "accuracy": None, "pixels": 0}
    assert values["conventions"]["torchvision"] is None
    json.dumps(values, allow_nan=False)


def test_classes_are_matched_by_name(dataset: Dataset) -> None:
    turned = LabelSet(("stone", "grass", "sea"))
    order = [2, 0, 1]
    confusion = evaluate(Reader(turned), dataset).confusion
    # The images hold indices: 0 is stone to this model, but the truth is still read by name.
    assert confusion.sum(1).tolist() == expected().sum(1)[order].tolist()
    assert confusion.sum(0).tolist() == expected().sum(0).tolist()


def test_a_class_that_the_model_does_not_know_is_named(dataset: Dataset) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-E004 .*1 of the data's classes: sea\. Model: grass, lake, stone\."):
        evaluate(Reader(LabelSet(("grass", "lake", "stone"))), dataset)


def test_the_head_that_knows_the_classes_is_named(dataset: Dataset) -> None:
    model = Reader(LabelSet(("flat", "upright")))
    model.heads = {"geometric": model, "semantic": Reader()}
    with pytest.raises(FullyconvError, match=r"SEG-E004 .*Say --head semantic$"):
        evaluate(model, dataset)


def test_images_that_were_trained_on_are_a_warning_with_a_code(dataset: Dataset, tmp_path: Path) -> None:
    pairs = dataset.pairs("val")
    trained = Dataset("folder", tmp_path, LABELS, {"train": pairs[:1]})
    report = evaluate(Reader(facts={"data": {"seen": Seen.of(trained).to_json()}}), dataset, out=tmp_path / "report")
    assert report.notes[0].startswith("warning SEG-E009  the model was trained on 1 of the 2 images of split val")
    assert report.notes[0] in str(report).splitlines()
    assert report.to_json()["notes"] == list(report.notes)
    assert "SEG-E009" in (tmp_path / "report" / "report.html").read_text()
    told = evaluate(Reader(), dataset).to_json()
    assert (told["notes"], told["runtime"]) == ([], {"name": "torch", "precision": "fp32"})


def test_a_split_without_masks_is_refused(dataset: Dataset) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-E005 .*split test .* 2 of its 2 images .*--split val"):
        evaluate(Reader(), dataset, split="test")


def test_unlike_sizes_are_refused_with_the_file(dataset: Dataset, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 9), np.uint8)).save(tmp_path / "masks" / "frame1.png")
    with pytest.raises(FullyconvError, match=r"SEG-E003 .*frame1\.png.* 3x9 and 3x2"):
        evaluate(Reader(), dataset)


def test_tallies_of_parts_add_up_to_the_whole(dataset: Dataset) -> None:
    pairs = dataset.pairs("val")
    whole, first, rest = (count(Reader(), part, LABELS) for part in (pairs, pairs[:1], pairs[1:]))
    both = first + rest
    assert torch.equal(both.confusion, whole.confusion)
    assert torch.equal(both.per_image, whole.per_image)
    assert both.names == whole.names == ("frame0", "frame1")
    assert torch.equal((whole + count(Reader(), (), LABELS)).confusion, whole.confusion)


def test_count_tells_of_each_image(dataset: Dataset) -> None:
    told: list[int] = []
    count(Reader(), dataset.pairs("val"), LABELS, on_image=lambda: told.append(1))
    assert len(told) == 2


def test_the_published_score_is_that_of_predict(dataset: Dataset) -> None:
    segmenter = Segmenter(create("fcn32s-resnet10t", 3), LABELS)
    confusion = evaluate(segmenter, dataset).confusion
    by_hand = torch.zeros(3, 3, dtype=torch.int64)
    for pair, truth in zip(dataset.pairs("val"), TRUTH, strict=True):
        pred = torch.from_numpy(segmenter(pair.image).mask)
        by_hand += metrics.confusion_matrix(torch.from_numpy(truth), pred, 3)
    assert torch.equal(confusion, by_hand)


def test_the_report_folder_is_whole(dataset: Dataset, tmp_path: Path) -> None:
    report = evaluate(Reader(), dataset, out=tmp_path / "out")
    out = tmp_path / "out"
    assert json.loads((out / "report.json").read_text()) == report.to_json()
    for picture in ("plots/iou_per_class.png", "plots/confusion.png"):
        with Image.open(out / picture) as opened:
            assert opened.width > 300
    assert [file.name for file in sorted((out / "worst").iterdir())] == ["01_50.0_frame1.png", "02_75.0_frame0.png"]
    with (out / "confusion.csv").open() as handle:
        assert list(csv.reader(handle))[1] == ["grass", "3", "1", "0"]
    with (out / "per_image.csv").open() as handle:
        assert [row[0] for row in csv.reader(handle)] == ["name", "frame1", "frame0"]
    assert (out / "report.html").stat().st_size > 10_000
    assert not list(tmp_path.glob(".out*"))


def test_an_earlier_report_is_replaced_and_nothing_else(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    evaluate(Reader(), dataset, out=out)
    (out / "worst" / "stale.png").touch()
    evaluate(Reader(), dataset, out=out)
    assert not (out / "worst" / "stale.png").exists()
    (out / "thesis.tex").touch()
    with pytest.raises(FullyconvError, match=r"SEG-E007 .*thesis\.tex"):
        evaluate(Reader(), dataset, out=out)
    (out / "thesis.tex").unlink()
    (out / "plots" / "figure.pdf").touch()
    with pytest.raises(FullyconvError, match=r"SEG-E007 .*plots/figure\.pdf"):
        evaluate(Reader(), dataset, out=out)
    (tmp_path / "mine" / "plots").mkdir(parents=True)
    (tmp_path / "mine" / "plots" / "figure.png").touch()
    with pytest.raises(FullyconvError, match=r"SEG-E007 .*plots/figure\.png"):
        evaluate(Reader(), dataset, out=tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FullyconvError, match=r"SEG-E007 .*that you are in"):
        evaluate(Reader(), dataset, out=".")
    with pytest.raises(FullyconvError, match=r"SEG-E007 .*is a file"):
        evaluate(Reader(), dataset, out=out / "report.json")


def test_a_place_that_takes_no_report_is_refused_before_anything_is_counted(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("fullyconv.evaluation._tally", never)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        evaluate(Reader(), dataset, out=tmp_path / "file" / "report")
    with pytest.raises(FileExistsError):
        score(tmp_path / "masks", tmp_path / "masks", out=tmp_path / "file" / "report")


def test_a_failed_write_leaves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    report = evaluate(Reader(), dataset)

    def broken(index: int) -> Any:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        Report(report.labels, report.tally, report.title, broken).write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_the_worst_images_come_first() -> None:
    counts = torch.tensor([[[4, 0], [4, 0], [4, 0]], [[0, 0], [0, 0], [0, 0]], [[1, 1], [2, 2], [2, 2]]])
    tally = Tally(torch.zeros(2, 2, dtype=torch.int64), ("good", "empty", "bad"), counts)
    rows = Report(LabelSet(("a", "b")), tally, "", lambda index: pytest.fail("not looked at")).per_image()
    assert [name for name, _ in rows] == ["bad", "good", "empty"]
    assert rows[0][1] == pytest.approx(1 / 3)
    assert math.isnan(rows[2][1])


def test_images_of_one_name_are_each_shown(tmp_path: Path) -> None:
    counts = torch.tensor([[[4, 0], [4, 0], [4, 0]], [[1, 1], [2, 2], [2, 2]]])
    tally = Tally(torch.eye(2, dtype=torch.int64), ("same", "same"), counts)
    seen: list[int] = []

    def view(index: int) -> View:
        seen.append(index)
        return View(None, TRUTH[0] * 0, TRUTH[0] * 0)

    Report(LabelSet(("a", "b")), tally, "", view)._write_worst(tmp_path)
    assert seen == [1, 0]


def test_the_terminal_shows_classes_scores_and_conventions(dataset: Dataset) -> None:
    text = str(evaluate(Reader(), dataset))
    for shown in ("stone", "50.00", "mean IoU", "61.11", "smp_micro", "2 images"):
        assert shown in text, shown


def test_names_of_classes_are_no_markup() -> None:
    tally = Tally(torch.eye(2, dtype=torch.int64), ("a",), torch.ones(1, 3, 2, dtype=torch.int64))
    report = Report(LabelSet(("[red]brick[/red]", "wall")), tally, "", lambda index: View(None, TRUTH[0], TRUTH[0]))
    assert "[red]brick[/red]" in str(report)


def test_score_gives_the_numbers_of_evaluate(dataset: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "pred", PRED)
    report = score(tmp_path / "pred", tmp_path / "masks", out=tmp_path / "out")
    assert torch.equal(report.confusion, expected())
    assert report.labels.names == ("class 0", "class 1", "class 2")
    assert len(list((tmp_path / "out" / "worst").iterdir())) == 2


def test_score_reads_the_names_of_a_classes_file(dataset: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "pred", PRED)
    (tmp_path / "classes.json").write_text('["grass", "sea", "stone"]')
    assert score(tmp_path / "pred", tmp_path / "masks").labels.names == LABELS.names


def test_score_reads_masks_in_colour(tmp_path: Path) -> None:
    colors = np.array([(0, 0, 0), (0, 0, 250), (0, 200, 0)], np.uint8)
    truth, pred = np.array([[0, 1, 1], [0, 2, 2]]), np.array([[0, 1, 2], [0, 2, 2]])
    write(tmp_path / "masks", [colors[truth]])
    write(tmp_path / "pred", [colors[pred]])
    assert score(tmp_path / "pred", tmp_path / "masks").confusion.tolist() == [[2, 0, 0], [0, 1, 1], [0, 0, 2]]


def test_score_takes_the_classes_of_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset
) -> None:
    write(tmp_path / "pred", PRED)
    monkeypatch.setattr("fullyconv.evaluation.open_dataset", lambda data: dataset)
    assert score(tmp_path / "pred", tmp_path / "masks", data="folder:anywhere").labels == LABELS


def test_score_reads_numbers_as_it_is_told(tmp_path: Path) -> None:
    write(tmp_path / "masks", [np.array([[1, 2, 3]], np.uint8)])
    write(tmp_path / "pred", [np.array([[1, 2, 2]], np.uint8)])
    (tmp_path / "classes.json").write_text('{"void": 0, "wall": 1, "sky": 2, "tree": 3}')
    with pytest.raises(FullyconvError, match="SEG-E008"):
        score(tmp_path / "pred", tmp_path / "masks")
    raw = score(tmp_path / "pred", tmp_path / "masks", coding="raw")
    index = score(tmp_path / "pred", tmp_path / "masks", coding="index")
    assert raw.confusion.diagonal().tolist() == [1, 1, 0]
    assert index.confusion.diagonal().tolist() == [0, 0, 1]


def test_score_refuses_illegal_predictions_with_the_file(dataset: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "pred", [PRED[0], np.full((3, 2), 9, np.uint8)])
    with pytest.raises(FullyconvError, match=r"SEG-E002 .*frame1\.png.* 9 \(6 pixels\)"):
        score(tmp_path / "pred", tmp_path / "masks")
