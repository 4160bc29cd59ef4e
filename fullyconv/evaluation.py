"""A whole dataset scored: `evaluate` a model through the public predict path, `score` masks from any tool."""

import csv
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import tee
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from fullyconv import charts, drawing, images, metrics
from fullyconv.ahead import ahead
from fullyconv.datasets import Dataset, Pair, open_dataset
from fullyconv.datasets.classes import find_classes_file, labels_of
from fullyconv.datasets.overlap import Seen
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.mask_folders import holds_indices, matched, read_prediction
from fullyconv.prediction import Segmenter, opened
from fullyconv.progress import progress
from fullyconv.report import write_report
from fullyconv.runtimes.computing import Runtime
from fullyconv.runtimes.formats import Precision
from fullyconv.wording import counted, shortened
from fullyconv.writing import refuse_unwritable, whole, write_json

WORST = 8  # pictures of the images with the lowest mean IoU
WRITTEN = ("report.json", "per_*.csv", "confusion.csv", "plots/*.png", "worst/*.png", "report.html")


@dataclass(frozen=True)
class Tally:
    """What was counted over some images. Tallies of parts add up to the tally of the whole.

    Args:
        confusion: Pixel counts, row target, column pred.
        names: One name per image.
        per_image: `metrics.class_counts` of each image: pixels hit, in the truth, predicted.
    """

    confusion: Int64[Tensor, "k k"]
    names: tuple[str, ...]
    per_image: Int64[Tensor, "n 3 k"]

    def __add__(self, other: "Tally") -> "Tally":
        per_image = torch.cat((self.per_image, other.per_image))
        return Tally(self.confusion + other.confusion, self.names + other.names, per_image)


@dataclass(frozen=True)
class View:
    """One image of a report, to look at: picture `(H, W, 3)` if there is one, truth and prediction `(H, W)`."""

    image: np.ndarray[Any, Any] | None
    target: np.ndarray[Any, Any]
    pred: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Report:
    """The scores of a dataset, and what they were counted from.

    Args:
        labels: The classes that were scored.
        tally: The counts.
        title: What was scored on what.
        view: Gives the image of an index, for the pictures of the worst.
        notes: What was inferred about the data, in sentences for the user.
        runtime: What computed the predictions, as `Engine.to_json` tells; none if they were found in files.
    """

    labels: LabelSet
    tally: Tally
    title: str
    view: Callable[[int], View]
    notes: tuple[str, ...] = ()
    runtime: Mapping[str, str] | None = None

    @property
    def confusion(self) -> Int64[Tensor, "k k"]:
        """Pixel counts, row target, column pred."""
        return self.tally.confusion

    @property
    def scores(self) -> dict[str, float]:
        """The paper's four scores, fractions in [0, 1]."""
        return metrics.scores(self.confusion)

    def per_image(self) -> list[tuple[str, float]]:
        """Each image's name and its own mean IoU, the worst first; NaN, for an image without a counted pixel, last."""
        return [(self.tally.names[index], value) for index, value in self._worst_first()]

    def _worst_first(self) -> list[tuple[int, float]]:
        """As `per_image`, by the images' positions: names may repeat."""
        names, values = self.tally.names, metrics.iou_of_counts(self.tally.per_image).nanmean(-1).tolist()
        return sorted(enumerate(values), key=lambda row: (math.isnan(row[1]), row[1], names[row[0]]))

    def to_json(self) -> dict[str, Any]:
        """Plain values; a score that does not exist is None."""
        iou, accuracy = metrics.iou(self.confusion).tolist(), metrics.accuracy(self.confusion).tolist()
        pixels = self.confusion.sum(1).tolist()
        values = {
            **self.scores,
            "classes": [
                {"name": name, "iou": iou[index], "accuracy": accuracy[index], "pixels": pixels[index]}
                for index, name in enumerate(self.labels.names)
            ],
            "conventions": metrics.conventions(self.confusion, self.tally.per_image),
            "mean_iou_interval": list(metrics.mean_iou_interval(self.tally.per_image)),
            "images": len(self.tally.names),
            "title": self.title,
            "notes": list(self.notes),
            "runtime": self.runtime,
        }
        return _without_nan(values)  # type: ignore[no-any-return]

    def write(self, folder: str | Path) -> None:
        """Writes the folder of a report, whole or not at all; an earlier report there is replaced.

        `report.html` holds all that is in `report.json`, `per_class.csv`, `per_image.csv`, `confusion.csv`, `plots/`
        and `worst/`.
        """
        folder = Path(folder)
        _refuse_foreign(folder)
        with whole(folder, durable=True) as fresh:
            (fresh / "plots").mkdir(parents=True)
            (fresh / "worst").mkdir()
            self._write_tables(fresh)
            self._write_plots(fresh / "plots")
            self._write_worst(fresh / "worst")
            write_report(fresh)

    def __str__(self) -> str:
        """Tables for the terminal: each class, the four scores, the other conventions."""
        from rich.console import Console

        console = Console(width=min(100, shutil.get_terminal_size().columns), highlight=False)
        with console.capture() as captured:
            for line in (f"{self.title}: {counted(len(self.tally.names), 'image')}, scores in percent", *self.notes):
                console.print(line, soft_wrap=True, markup=False)
            for table in _tables(self.to_json()):
                console.print()
                console.print(table)
        return captured.get().rstrip()

    def _write_tables(self, folder: Path) -> None:
        values = self.to_json()
        write_json(folder / "report.json", values)
        _write_csv(
            folder / "per_class.csv",
            ["name", "iou", "accuracy", "pixels"],
            ([row["name"], row["iou"], row["accuracy"], row["pixels"]] for row in values["classes"]),
        )
        _write_csv(folder / "per_image.csv", ["name", "mean_iou"], ([name, value] for name, value in self.per_image()))
        names = self.labels.names
        rows = ([name, *row] for name, row in zip(names, self.confusion.tolist(), strict=True))
        _write_csv(folder / "confusion.csv", ["truth \\ prediction", *names], rows)

    def _write_plots(self, folder: Path) -> None:
        names, colors = self.labels.names, self.labels.colors
        iou = metrics.iou(self.confusion).numpy()
        charts.save(charts.class_bars(iou, names, colors), folder / "iou_per_class.png")
        charts.save(charts.confusion(self.confusion.numpy(), names), folder / "confusion.png")

    def _write_worst(self, folder: Path) -> None:
        for rank, (index, value) in enumerate(self._worst_first()[:WORST], start=1):
            if math.isnan(value):
                return
            view = self.view(index)
            sheet = drawing.side_by_side(_panels(view, self.labels), columns=2)
            picture = drawing.with_legend(sheet, np.stack((view.target, view.pred)), self.labels)
            safe = re.sub(r"[^\w.-]+", "_", self.tally.names[index])
            picture.save(folder / f"{rank:02d}_{100 * value:.1f}_{safe}.png")


def evaluate(
    model: str | Path | Segmenter,
    data: str | Path | Dataset,
    *,
    split: str = "val",
    head: Annotated[str, "NAME"] | None = None,
    runtime: Runtime = "auto",
    precision: Precision = "fp32",
    calibrate: str | Path | Dataset | None = None,
    out: str | Path | None = None,
) -> Report:
    """Score a model on a dataset, by the predictions that its users get, at the size of the masks.

    Args:
        model: Model folder or run folder.
        data: A path whose layout is recognised, or LAYOUT:PATH.
        split: Which part of the dataset.
        head: Of a network with several heads, which one; the first if left out.
        runtime: What computes, as for predict; in fp32 it changes no more of the scores than rounding does.
        precision: What convolutions compute in; int8 is measured on --calibrate first.
        calibrate: Data or a folder of images for int8, best those that the model was trained on; the model folder keeps
            what was measured, so that later commands leave this out.
        out: Folder for the report: tables, charts, the worst images. An earlier report there is replaced.

    Example:
        fullyconv evaluate runs/a data/ --split val --out runs/a/on-val
    """
    if out is not None:
        _refuse_out(Path(out))
    dataset, pairs = _truth(data, split, head)
    segmenter = opened(model, head=head, runtime=runtime, precision=precision, calibrate=calibrate)
    with progress(len(pairs), "evaluating") as advance:
        tally = count(segmenter, pairs, dataset.labels, on_image=advance)
    name = ("the model" if isinstance(model, Segmenter) else str(model)) + (f", head {head}" if head else "")

    def view(index: int) -> View:
        image, target = _decoded(pairs[index], segmenter, dataset.labels)
        truth = _translation(dataset.labels, segmenter)(target)
        return View(images.to_rgb(image), truth.numpy(), segmenter(image).mask)

    notes = (*_trained_on(segmenter, dataset, split), *dataset.notes, *_computed_in(segmenter))
    title = f"{name} on {dataset.root}, split {split}"
    report = Report(segmenter.labels, tally, title, view, notes, segmenter.engine.to_json())
    if out is not None:
        report.write(out)
    return report


class Comparison:
    """A model and other ways to run it on the same images; data that cannot be scored are refused before any is run.

    Args:
        segmenter: Predicts whole images.
        data: A path whose layout is recognised, or LAYOUT:PATH.
        split: Which part of the dataset.
        head: Whose labels of the dataset are the truth; the first's if left out.
    """

    def __init__(
        self, segmenter: Segmenter, data: str | Path | Dataset, *, split: str = "val", head: str | None = None
    ) -> None:
        self.segmenter = segmenter
        self.dataset, self.pairs = _truth(data, split, head)
        self.translate = _translation(self.dataset.labels, segmenter)

    def against(self, other: Callable[[Tensor], Tensor]) -> tuple[Tally, Tally, Int64[Tensor, "k k"]]:
        """What the model and another way to run it do, each against the truth and against each other.

        Args:
            other: The label map `(H, W)` of an image `(C, H, W)`.

        Returns:
            The model's tally, the other's, and their pixel counts: row the model's class, column the other's.
        """
        segmenter, labels, known = self.segmenter, self.dataset.labels, self.segmenter.labels
        ours, theirs = [], []
        common = torch.zeros(len(known), len(known), dtype=torch.int64)
        with progress(len(self.pairs), "comparing") as advance:
            for pair, (image, mask) in ahead(lambda pair: _decoded(pair, segmenter, labels), self.pairs, advance):
                target = self.translate(mask)
                mine, its = torch.from_numpy(segmenter(image, tile="none").mask), other(image)
                ours.append((pair.name, _confusion(target, mine, known, pair.mask)))
                theirs.append((pair.name, _confusion(target, its, known, pair.mask)))
                common += metrics.confusion_matrix(mine, its, len(known), -1)
        return _tally(ours, len(known)), _tally(theirs, len(known)), common


def score(
    predictions: str | Path,
    truth: str | Path,
    *,
    data: str | Path | Dataset | None = None,
    coding: Literal["auto", "index", "raw"] = "auto",
    out: str | Path | None = None,
) -> Report:
    """Score a folder of predicted masks, from any tool, against true masks of the same names.

    A prediction holds class indices, or the dataset's own values or colours.

    Args:
        predictions: Folder of masks; files without a counterpart in TRUTH are left aside.
        truth: Folder of masks.
        data: A dataset (a path, or LAYOUT:PATH) whose classes TRUTH has; if left out, a classes file in or beside TRUTH
            names them, or they are inferred from its masks.
        coding: Whether numbers in predictions are class indices or the dataset's own raw values; auto finds out.
        out: Folder for the report: tables, charts, the worst images. An earlier report there is replaced.

    Example:
        fullyconv score masks/ data/valannot --data data/
    """
    predictions, truth = Path(predictions), Path(truth)
    if out is not None:
        _refuse_out(Path(out))
    pairs = matched(predictions, truth)
    if data is None:
        classes_file = find_classes_file((truth, truth.parent))
        labels, notes = labels_of([true for _, true in pairs], classes_file)
        if classes_file is None:
            notes = (*notes, "if these are the masks of a data set, --data says its classes, and which of them is void")
    else:
        labels, notes = open_dataset(data).labels, ()
    indices = holds_indices(pairs, labels) if coding == "auto" else coding == "index"
    if any(predicted.stem != true.stem for predicted, true in pairs):
        notes = (*notes, f"matched without the endings of their names: {pairs[0][0].name} with {pairs[0][1].name}")

    def read(pair: tuple[Path, Path]) -> tuple[Tensor, Tensor]:
        return images.read_mask(pair[1], labels), read_prediction(pair[0], labels, indices)

    with progress(len(pairs), "scoring") as advance:
        tally = _tally(
            (
                (true.relative_to(truth).with_suffix("").as_posix(), _confusion(target, pred, labels, predicted))
                for (predicted, true), (target, pred) in ahead(read, pairs, advance)
            ),
            len(labels),
        )

    def view(index: int) -> View:
        target, pred = read(pairs[index])
        return View(None, target.numpy(), pred.numpy())

    report = Report(labels, tally, f"{predictions} against {truth}", view, notes)
    if out is not None:
        report.write(out)
    return report


def count(
    segmenter: Segmenter, pairs: Sequence[Pair], labels: LabelSet, *, on_image: Callable[[], None] | None = None
) -> Tally:
    """What the segmenter does on some images with masks; images are decoded while it computes.

    Args:
        segmenter: Its own label set decides what is counted; the truth is matched to it by class name.
        pairs: Images with masks.
        labels: The classes of the masks.
        on_image: Told after each image.

    Raises:
        FullyconvError: SEG-E004 if the masks have a class that the segmenter does not know.
    """
    translate = _translation(labels, segmenter)
    seen, truth = tee(ahead(lambda pair: _decoded(pair, segmenter, labels), pairs))
    pictures, targets = (image for _, (image, _) in seen), (translate(target) for _, (_, target) in truth)
    matrices = segmenter.confusions(pictures, targets)

    def matrix(pair: Pair) -> Tensor:
        with _naming(pair.mask):
            found = next(matrices)
        if on_image is not None:
            on_image()
        return found

    return _tally(((pair.name, matrix(pair)) for pair in pairs), len(segmenter.labels))


def _refuse_out(folder: Path) -> None:
    """Raises, before anything is computed, what writing a report to the folder would raise after it."""
    _refuse_foreign(folder)
    refuse_unwritable(folder)


def _refuse_foreign(folder: Path) -> None:
    """Raises SEG-E007 if a report written to the folder would remove what is not an earlier report."""
    if folder.is_file():
        raise FullyconvError("SEG-E007", f"{folder} is a file; give --out the name of a folder")
    if folder.resolve() == Path.cwd():
        raise FullyconvError("SEG-E007", f"{folder} is the folder that you are in; give --out the name of another")
    earlier = WRITTEN if (folder / "report.json").exists() else ()
    held = (item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file())
    foreign = sorted(name for name in held if not any(fnmatchcase(name, pattern) for pattern in earlier))
    if foreign:
        raise FullyconvError(
            "SEG-E007",
            f"{folder} holds other things than a report ({shortened(foreign, 3)}); give --out a new name, such as "
            f"{folder}/report",
        )


def _tally(counted: Iterable[tuple[str, Tensor]], num_classes: int) -> Tally:
    """The tally of images that come one at a time as name and confusion matrix."""
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    names, counts = [], []
    for name, matrix in counted:
        confusion += matrix
        names.append(name)
        counts.append(metrics.class_counts(matrix))
    per_image = torch.stack(counts) if counts else torch.zeros(0, 3, num_classes, dtype=torch.int64)
    return Tally(confusion, tuple(names), per_image)


def _confusion(target: Tensor, pred: Tensor, labels: LabelSet, file: Path | None) -> Tensor:
    with _naming(file):
        return metrics.confusion_matrix(target, pred, len(labels), labels.ignore_index)


@contextmanager
def _naming(file: Path | None) -> Iterator[None]:
    """Names the file in what is raised of masks that cannot be scored."""
    try:
        yield
    except FullyconvError as error:
        if error.code not in ("SEG-E001", "SEG-E002", "SEG-E003"):
            raise
        raise FullyconvError(error.code, f"{file}: {error.message}") from None


def _decoded(pair: Pair, segmenter: Segmenter, labels: LabelSet) -> tuple[Tensor, Tensor]:
    assert pair.mask is not None, "pairs without masks are refused before"
    # A network of colours alone is scored on a data set of colours and depth, too.
    pictures = pair.pictures[: len(segmenter.bands)]
    return images.stack(pictures, segmenter.bands), images.read_mask(pair.mask, labels)


def _truth(data: str | Path | Dataset, split: str, head: str | None) -> tuple[Dataset, Sequence[Pair]]:
    """A dataset with the labels of a head, and the pairs of a split, all of which have masks."""
    dataset = open_dataset(data)
    dataset = dataset.heads.get(head or "", dataset)  # a data set such as SIFT Flow has labels for several heads
    return dataset, _with_masks(dataset, split)


def _with_masks(dataset: Dataset, split: str) -> Sequence[Pair]:
    pairs: Sequence[Pair] = dataset.pairs(split)
    bare = [pair.name for pair in pairs if pair.mask is None]
    if bare or not pairs:
        lack = f"{len(bare)} of its {len(pairs)} images have no mask, such as {bare[0]}" if bare else "it has no images"
        ready = [name for name, others in dataset.splits.items() if others and all(pair.mask for pair in others)]
        cure = f"; complete: --split {' or '.join(ready)}" if ready else ""
        raise FullyconvError("SEG-E005", f"the split {split} of {dataset.root} cannot be scored: {lack}{cure}")
    return pairs


def _trained_on(segmenter: Segmenter, dataset: Dataset, split: str) -> list[str]:
    """A warning if the model was trained on images of the split, as far as its folder tells."""
    record = segmenter.facts.get("data", {}).get("seen")
    known = Seen.from_json(record).among(dataset, split) if record else []
    if not known:
        return []
    return [
        f"warning SEG-E009  the model was trained on {len(known)} of the {len(dataset.pairs(split))} images of split "
        f"{split}, such as {known[0].name}, and its scores on them flatter"
    ]


def _computed_in(segmenter: Segmenter) -> list[str]:
    """A note on what the scores were computed by, where that is not this package in fp32."""
    engine = segmenter.engine.to_json()
    ours = engine["precision"] == "fp32" and engine["name"] in ("torch", "packed")
    return [] if ours else [f"computed by {engine['name']} in {engine['precision']}"]


def _translation(labels: LabelSet, segmenter: Segmenter) -> Callable[[Tensor], Tensor]:
    """From class indices of a label set to those of a segmenter that knows all its names."""
    known = segmenter.labels
    unknown = [name for name in labels.names if name not in known.names]
    if unknown:
        knowing = [name for name, head in segmenter.heads.items() if set(labels.names) <= set(head.labels.names)]
        cure = "Rename the data's classes (classes.json) as the model's, or train on this data"
        raise FullyconvError(
            "SEG-E004",
            f"the model does not know {len(unknown)} of the data's classes: {shortened(unknown)}. "
            f"Model: {shortened(known.names)}. Data: {shortened(labels.names)}. "
            + (f"Say --head {' or '.join(knowing)}" if knowing else cure),
        )
    if labels.names == known.names and labels.ignore_index == known.ignore_index:
        return lambda mask: mask
    table = torch.full((labels.ignore_index + 1,), known.ignore_index, dtype=torch.int64)
    table[: len(labels)] = torch.tensor([known.names.index(name) for name in labels.names])
    dtype = torch.uint8 if known.ignore_index == 255 else torch.int32
    return lambda mask: table.to(dtype)[mask.long()]


def _panels(view: View, labels: LabelSet) -> list[tuple[str, Image.Image]]:
    counted = view.target != labels.ignore_index
    wrong = (view.target != view.pred) & counted
    share = 100 * wrong.sum() / max(1, counted.sum())
    blank = np.full((*view.target.shape, 3), 255, np.uint8)
    image = blank if view.image is None else view.image
    panels = [
        ("truth", drawing.overlay(image, view.target, labels, alpha=0.8, legend=False)),
        ("prediction", drawing.overlay(image, view.pred, labels, alpha=0.8, legend=False)),
        (f"wrong: {share:.1f} % of pixels", drawing.mistakes(image, view.target, view.pred, labels.ignore_index)),
    ]
    return panels if view.image is None else [("image", Image.fromarray(image)), *panels]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)


def _tables(values: Mapping[str, Any]) -> Iterator[Any]:
    """What `Report.__str__` prints, from its JSON."""
    from rich.table import Table
    from rich.text import Text

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}"

    classes = Table("class", box=None, pad_edge=False)
    for heading in ("IoU", "accuracy", "pixels"):
        classes.add_column(heading, justify="right")
    for row in values["classes"]:
        classes.add_row(Text(row["name"]), percent(row["iou"]), percent(row["accuracy"]), f"{row['pixels']:,}")
    yield classes
    low, high = values["mean_iou_interval"]
    scores = Table(box=None, pad_edge=False, show_header=False)
    for name, title in metrics.TITLES.items():
        interval = f"95 % of resampled datasets: {percent(low)} to {percent(high)}" if name == "mean_iou" else ""
        scores.add_row(title, percent(values[name]), interval)
    yield scores
    programs: dict[str, list[str]] = {}
    for name, value in values["conventions"].items():
        programs.setdefault(percent(value), []).append(name)
    others = Table("mean IoU", "as these define it", box=None, pad_edge=False)
    for shown, names in programs.items():
        others.add_row(shown, ", ".join(names))
    yield others
