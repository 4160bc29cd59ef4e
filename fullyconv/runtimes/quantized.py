"""A network in int8: quantised once on images like those to come, and kept in its model folder."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fullyconv.artefact import INT8
from fullyconv.errors import FullyconvError
from fullyconv.models import FCN
from fullyconv.runtimes.formats import SUFFIXES, Array, Format, Run, opened, write
from fullyconv.runtimes.pipeline import Pipeline, traced
from fullyconv.runtimes.weights import digest
from fullyconv.wording import counted
from fullyconv.writing import whole

FORMATS: tuple[Format, ...] = ("openvino", "onnx")  # that compute in int8, the faster first


@dataclass(frozen=True)
class Int8:
    """Where the int8 form of a network comes from.

    Args:
        folder: The model folder, which keeps it for the next time; none keeps nothing.
        images: `(1, H, W, C)` in [0, 1], to measure on them what 8 bits have to stand for; if left out, what the folder
            keeps is taken.
    """

    folder: Path | None = None
    images: Sequence[Array] | None = None

    def opened(self, model: FCN, format: Format) -> Run:
        """The coarse scores `(N, K, h, w)` of images `(N, H, W, C)`, by the runtime of a format.

        Raises:
            FullyconvError: SEG-X002 if there are no images and the folder keeps nothing of these weights that can be
                read, SEG-X003 if the network has no graph for every size.
        """
        kept = None if self.folder is None else self.folder / f"{INT8}{digest(model)[:12]}{SUFFIXES[format]}"
        if self.images is None:
            return _kept(kept, format)
        with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # Windows deletes no file that is mapped
            file = Path(scratch) / f"model{SUFFIXES[format]}"
            print(f"measuring the ranges of int8 on {counted(len(self.images), 'image')}, once", file=sys.stderr)
            write(traced(Pipeline(model, output="scores"), "float"), file, format, {}, self.images)
            if kept is not None:
                _keep(file, kept)
            return opened(file, format, "int8")


def _kept(file: Path | None, format: Format) -> Run:
    if file is None or not file.exists():
        where = "" if file is None else f", and {file.parent} keeps none of this network for {format}"
        raise FullyconvError(
            "SEG-X002", f"int8 needs images like those to come, to measure its ranges on{where}; say --calibrate DATA"
        )
    try:
        return opened(file, format, "int8")
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())[-160:]
        raise FullyconvError(
            "SEG-X002", f"{file} cannot be read ({reason}); say --calibrate DATA, and it is made anew"
        ) from error


def _keep(file: Path, kept: Path) -> None:
    """Copies a file, and what stands beside it, into a model folder; one that cannot be written to keeps nothing."""
    try:
        for part in sorted(file.parent.glob(f"{file.stem}.*")):  # weights before the graph that names them
            with whole(kept.with_suffix(part.suffix)) as draft:
                draft.write_bytes(part.read_bytes())
    except OSError as error:
        print(f"{kept.parent} cannot keep the network in int8: {error.strerror}", file=sys.stderr)
