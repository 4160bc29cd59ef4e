"""A model becomes a file of another runtime, tried and, on request, measured against the model."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fullyconv.arguments import bounded
from fullyconv.artefact import versions
from fullyconv.datasets import Dataset
from fullyconv.errors import FullyconvError
from fullyconv.evaluation import Comparison
from fullyconv.exporting.carried import carried
from fullyconv.exporting.parity import Parity, measure
from fullyconv.models import FCN
from fullyconv.prediction import Segmenter
from fullyconv.prediction import opened as opened_model
from fullyconv.prediction.calibration import Samples
from fullyconv.runtimes.formats import SUFFIXES, Array, Format, Precision, opened, place, refuse_impossible, write
from fullyconv.runtimes.pipeline import TRIED, Output, Pipeline, Pixels, not_exportable, traced
from fullyconv.runtimes.weights import digest
from fullyconv.writing import refuse_unwritable, write_json

BUDGETS = {"fp32": 0.1, "bf16": 0.5, "int8": 1.0}  # points of mean IoU
REPORT = "parity.json"
SAME = ("labels", "input", "output", "precision", "weights")  # the facts by which a file is known again


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, or found as it had written it.

    Args:
        file: The file; of OpenVINO, the .xml beside its .bin.
        format: Which runtime it is for.
        precision: What its convolutions compute in.
        parity: How it compares with the model, if that was asked for.
    """

    file: Path
    format: Format
    precision: Precision
    parity: Parity | None

    @property
    def failed(self) -> bool:
        """Whether the file differs from the model by more than the budget."""
        return self.parity is not None and not self.parity.within

    def to_json(self) -> dict[str, Any]:
        """`{"file", "format", "precision", "parity"}`."""
        parity = None if self.parity is None else self.parity.to_json()
        return {"file": str(self.file), "format": self.format, "precision": self.precision, "parity": parity}

    def __str__(self) -> str:
        told = f"{self.file}: {self.format}, {self.precision}"
        return told if self.parity is None else f"{told}\n\n{self.parity}"


@bounded
def export(
    model: str | Path | Segmenter,
    *,
    format: Format = "onnx",
    precision: Precision = "fp32",
    output: Output = "labels",
    image: Pixels = "uint8",
    verify: str | Path | Dataset | None = None,
    split: str | None = None,
    budget: float | None = None,
    calibrate: str | Path | Dataset | None = None,
    head: str | None = None,
    out: str | Path | None = None,
) -> Exported:
    """Write a model as one file for another runtime, from pixels to labels, for images of every size.

    Args:
        model: Model folder or run folder.
        format: The runtime: ONNX Runtime, OpenVINO, or PyTorch without this package.
        precision: What convolutions compute in; int8 needs --calibrate.
        output: The label map, or the logits of all classes.
        image: What goes in, (N, H, W, C): uint8, or float in [0, 1].
        verify: Data with masks, on which the file is measured against the model; exits 1 above the budget. A file that
            was exported before, of the same weights and options, is measured as it is.
        split: Which part of the data that --verify names; val if left out.
        budget: How far the file's mean IoU may lie from the model's, in points; 0.1, 0.5 or 1 for fp32, bf16 or int8 if
            left out.
        calibrate: Data or a folder of images for int8, best those that the model was trained on.
        head: Of a network with several heads, which one; the first if left out.
        out: The file, ending in .onnx, .xml or .pt2; beside the model if left out.

    Raises:
        FullyconvError: SEG-X001 for a precision that the format has not; SEG-U009 for a missing package; SEG-X002 for
            int8 without images to calibrate it on; SEG-X003 for a network that has no graph for every size; SEG-X004
            for another ending of the file; SEG-X005 for --split or --budget without --verify; SEG-U008 if the file
            exists, and is not to be measured or is another.

    Example:
        fullyconv export runs/a --format onnx --precision int8 --calibrate data/ --verify data/
    """
    refuse_impossible(format, precision)
    if (precision == "int8") != (calibrate is not None):
        raise FullyconvError("SEG-X002", "int8 and --calibrate go together: --precision int8 --calibrate DATA")
    if verify is None and (split, budget) != (None, None):
        raise FullyconvError("SEG-X005", "--split and --budget are of --verify DATA; give it, or leave them out")
    file = _place(model, format, precision, out)
    if verify is None or not file.exists():
        _refuse_existing(file, format)
    refuse_unwritable(file)
    segmenter = opened_model(model, head=head, runtime="torch")  # parity is with the plain network
    comparison = None if verify is None else Comparison(segmenter, verify, split=split or "val", head=head)
    facts = _facts(segmenter, precision, output, image)
    if file.exists():
        _refuse_other(file, format, facts)
    else:
        samples = None if calibrate is None else Samples(calibrate, segmenter.bands, image)
        pipeline = Pipeline(segmenter.model, output=output, bf16=(format, precision) == ("torch", "bf16"))
        _write(file, pipeline, image, format, precision, facts, samples)
    if comparison is None:
        return Exported(file, format, precision, None)
    allowed = BUDGETS[precision] if budget is None else budget
    parity = measure(comparison, opened(file, format, precision), budget=allowed, pixels=image, output=output)
    # Several files in one folder have each its own.
    write_json(file.with_name(REPORT if out is None else f"{file.name}.{REPORT}"), parity.to_json())
    return Exported(file, format, precision, parity)


def _write(
    file: Path,
    pipeline: Pipeline,
    pixels: Pixels,
    format: Format,
    precision: Precision,
    facts: Mapping[str, Any],
    samples: Sequence[Array] | None,
) -> None:
    """Writes a pipeline's file, tried and whole or not at all.

    Scores that are zero say nothing of the maps before them: where a score layer is, one of noise is tried first.

    Raises:
        FullyconvError: SEG-X003 if there is no graph for every size.
    """

    def tried(candidate: Pipeline, folder: Path) -> Path:
        program = traced(candidate, pixels)
        _refuse_different(candidate, program.module(), pixels)
        fresh = folder / file.name
        write(program, fresh, format, facts, samples)
        run = opened(fresh, format, precision)
        if precision == "fp32":
            _refuse_different(candidate, lambda images: torch.from_numpy(run(images.numpy())), pixels)
        return fresh

    with _scratch() as trial, _scratch() as folder:
        if scoring := _scoring(pipeline):
            tried(scoring, trial)
        place(tried(pipeline, folder), file)


@contextmanager
def _scratch() -> Iterator[Path]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows deletes no file that is mapped
        yield Path(folder)


def _scoring(pipeline: Pipeline) -> Pipeline | None:
    """A copy with noise in the score layers that are zero, as all are before training; None if there are none."""
    copied = copy.deepcopy(pipeline)
    networks = (part for part in copied.modules() if isinstance(part, FCN))
    weights = [layer.get_parameter("weight") for network in networks for layer in network.score_layers.values()]
    zeros = [weight for weight in weights if not weight.any()]
    noise = torch.Generator().manual_seed(0)
    for weight in zeros:
        weight.normal_(std=weight[0].numel() ** -0.5, generator=noise)
    return copied if zeros else None


def _place(model: str | Path | Segmenter, format: Format, precision: Precision, out: str | Path | None) -> Path:
    """Where the file comes to stand.

    Raises:
        FullyconvError: SEG-X004 if its ending is not the format's.
    """
    suffix = SUFFIXES[format]
    if out is None:
        folder = Path("model" if isinstance(model, Segmenter) else model).resolve()
        return folder.with_name(f"{folder.name}-{format}-{precision}") / f"model{suffix}"
    if Path(out).suffix != suffix:
        raise FullyconvError("SEG-X004", f"a file of --format {format} ends in {suffix}; --out {out} does not")
    return Path(out)


def _refuse_existing(file: Path, format: Format) -> None:
    parts = (file, file.with_suffix(".bin")) if format == "openvino" else (file,)
    standing = [path for path in parts if path.exists()]
    if standing:
        raise FullyconvError(
            "SEG-U008",
            f"{standing[0]} exists already; move it away, name another with --out, or measure it with --verify DATA",
        )


def _refuse_other(file: Path, format: Format, facts: Mapping[str, Any]) -> None:
    """Does nothing if a file is the one that would be written, by the facts that it carries along."""
    try:
        found = carried(file, format, SAME)
        other = [name for name in SAME if found[name] != json.loads(json.dumps(facts[name]))]
    except Exception as error:  # each runtime has its own
        raise FullyconvError("SEG-U008", f"{file} exists already and is no file that export wrote ({error})") from error
    if other:
        raise FullyconvError(
            "SEG-U008",
            f"{file} exists already and differs from what would be written in its {' and '.join(other)}; move it away "
            "or name another with --out",
        )


def _facts(segmenter: Segmenter, precision: Precision, output: Output, pixels: Pixels) -> dict[str, Any]:
    """What the file carries along, for whoever finds it without its model folder."""
    return {
        "labels": segmenter.labels.to_dict(),
        "input": {"dtype": pixels, "layout": "NHWC", "channels": segmenter.channels, "order": "RGB"},
        "output": output,
        "precision": precision,
        "weights": digest(segmenter.model),
        "provenance": {"architecture": segmenter.architecture, **segmenter.facts, "versions": versions()},
    }


def _refuse_different(pipeline: Pipeline, run: Callable[[Tensor], Tensor], pixels: Pixels) -> None:
    """Raises SEG-X003 if a graph gives anything else than the pipeline that it was made of, at sizes new to it."""
    for size in TRIED:
        image = pipeline.example(1, *size, pixels)
        try:
            with torch.no_grad():
                expected, found = pipeline(image), run(image)
        except Exception as error:  # each runtime has its own
            reason = " ".join(str(error).split())[-160:]
            raise not_exportable(f"at {size[0]}x{size[1]} the graph does not run: {reason}") from error
        same = expected.shape == found.shape and torch.isclose(expected.float(), found.float(), 1e-3, 1e-3)
        # Labels may differ where two classes tie up to rounding.
        if not isinstance(same, Tensor) or float(same.float().mean()) < 0.99:
            raise not_exportable(f"at {size[0]}x{size[1]} the graph's result differs from the network's")
