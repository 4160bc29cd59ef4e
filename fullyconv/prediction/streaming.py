"""Images larger than memory to label maps in files, by windows; what was stopped goes on where it was."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fullyconv import drawing, images, rasters
from fullyconv.errors import FullyconvError
from fullyconv.prediction.memory import free_memory, process_memory
from fullyconv.prediction.segmenter import Segmenter, evaluating, stacked
from fullyconv.prediction.tiles import WHOLE_IMAGE_PIXELS, Plan, Tiling, chosen_tile, mask_rows, plan, whole_scores
from fullyconv.progress import progress
from fullyconv.rasters import Raster
from fullyconv.timing import seconds_of
from fullyconv.writing import FULL, whole, write_json

PREVIEW_SIDE = 2048
TRIAL_SIDE = 512


def streamed_files(folder: Path, name: str, file: Path) -> tuple[Path, Path]:
    """Where `stream` writes the label map of an image and the preview of its overlay."""
    return folder / f"{name}{rasters.label_suffix(file)}", folder / f"{name}_overlay.png"


def unfinished(mask: Path) -> Path:
    """Where a label map grows until it is whole."""
    return mask.with_name(f"{mask.name}.part")


def stream(
    segmenter: Segmenter, files: Sequence[Path], folder: Path, name: str, tile: Tiling = "auto"
) -> tuple[Path, Path]:
    """Segments an image by windows, and tells on stderr what that takes before it begins; gives both paths written.

    The label map grows in `NAME.tif.part`, and `NAME.tif.part.json` says how far it is; `NAME.tif` appears when it is
    whole. Called again after it was stopped, it goes on: with the same arguments, as `predict_files` sees to.

    Args:
        segmenter: What predicts.
        files: The pictures of one scene, which `rasters.by_windows` says are to be read so.
        folder: For the label map, in the format of the first picture, and for a preview of the overlay in PNG.
        name: What both are named after.
        tile: As for `predict`.

    Raises:
        FullyconvError: SEG-D009 for a damaged picture, SEG-D030 for pictures of unlike sizes, SEG-P005 and SEG-P006 as
            `mask_rows`, SEG-P007 if the disk is full.
        KeyboardInterrupt: Saying how to go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mask, overlay = streamed_files(folder, name, files[0])
    with ExitStack() as stack:
        bands = segmenter.bands if len(files) == len(segmenter.bands) else [segmenter.channels] * len(files)
        pictures = [
            stack.enter_context(rasters.opened(file, bands=count)) for file, count in zip(files, bands, strict=True)
        ]
        size = _one_size(pictures)
        model, row_bytes = segmenter.model, sum(picture.row_bytes for picture in pictures)
        part = Part(unfinished(mask), size, rasters.label_dtype(segmenter.labels))
        side = part.begun() or chosen_tile(model, size, tile, row_bytes)
        cut = plan(model, size, side)
        stack.enter_context(rasters.caching(cut.window[0] * row_bytes))
        part.refuse_full_disk(pictures[0].room)
        with evaluating(model):
            if size[0] * size[1] > WHOLE_IMAGE_PIXELS:
                _tell(segmenter, files[0], cut, row_bytes, part.rows)
            _fill(part, segmenter, pictures, side)
        images.write_picture(overlay, _preview(segmenter, pictures, part))
        _write(lambda path: pictures[0].write_labels(path, part.read, segmenter.labels), mask)
        part.remove()
    return mask, overlay


@dataclass
class Part:
    """A label map that is not finished: its rows one after the other, and beside them how many are safe on the disk.

    Args:
        path: Of the rows; the state is in the file of the same name with `.json` behind.
        size: Height and width of the whole.
        dtype: Of a pixel.
        rows: How many are finished.
    """

    path: Path
    size: tuple[int, int]
    dtype: np.dtype[Any]
    rows: int = 0

    @property
    def state(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def begun(self) -> int | None:
        """The side of the tiles that an earlier call began with; None if there was none."""
        if not self.state.exists() or not self.path.exists():
            return None
        try:
            before = json.loads(self.state.read_text(encoding="utf-8"))
            side, rows = int(before["side"]), int(before["rows"])
        except (ValueError, KeyError, TypeError):  # damaged, so nothing is known to be finished
            return None
        self.rows = min(rows, self.path.stat().st_size // self._row_bytes)
        return side

    def append(self, labels: np.ndarray[Any, Any], side: int) -> None:
        """Adds rows, computed in tiles of some side; they count when they are on the disk.

        Raises:
            FullyconvError: SEG-P007 if there is no space.
        """
        try:
            with self.path.open("r+b" if self.rows else "wb") as file:
                file.seek(self.rows * self._row_bytes)
                file.write(np.ascontiguousarray(labels, self.dtype).data)
                file.flush()
                os.fsync(file.fileno())
            self.rows += len(labels)
            write_json(self.state, {"side": side, "rows": self.rows})
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise FullyconvError(
                "SEG-P007",
                f"the disk of {self.path} is full; {self.rows} of {self.size[0]} rows are safe: free some space and "
                "repeat the command to go on",
            ) from None

    def read(self, first: int, last: int) -> np.ndarray[Any, Any]:
        """Finished rows, from one up to another."""
        count = (last - first) * self.size[1]
        return np.fromfile(self.path, self.dtype, count, offset=first * self._row_bytes).reshape(-1, self.size[1])

    def remove(self) -> None:
        """Removes both files."""
        self.path.unlink()
        self.state.unlink()

    def refuse_full_disk(self, room: float) -> None:
        """Raises SEG-P007 if the rows to come and what is written of all of them have no room.

        Args:
            room: Bytes that are written for each of the whole, while its rows still lie there.
        """
        wanted = (self.size[0] - self.rows) * self._row_bytes + int(room * self.size[0] * self._row_bytes)
        free = shutil.disk_usage(self.path.parent).free
        if free < wanted:
            raise FullyconvError(
                "SEG-P007",
                f"the label map needs {_shown(wanted)} on the disk of {self.path.parent}, and {_shown(free)} "
                "are free; choose another --out",
            )

    @property
    def _row_bytes(self) -> int:
        return self.size[1] * self.dtype.itemsize


def _fill(part: Part, segmenter: Segmenter, pictures: Sequence[Raster], side: int) -> None:
    """Computes the rows that a label map still lacks."""
    ignore = segmenter.labels.ignore_index

    def read(rows: slice, columns: slice) -> Tensor:
        return _window(segmenter, pictures, rows, columns)

    try:
        with progress(part.size[0], "rows") as advance:
            advance(part.rows)
            for labels in mask_rows(segmenter.engine, read, part.size, side, first_row=part.rows):
                labels = labels.astype(part.dtype)
                for has_data in (picture.has_data(part.rows, part.rows + len(labels)) for picture in pictures):
                    if has_data is not None:
                        labels[~has_data] = ignore
                part.append(labels, side)
                advance(len(labels))
    except KeyboardInterrupt:
        if part.rows == 0:
            raise
        raise KeyboardInterrupt(
            f"stopped at row {part.rows} of {part.size[0]}, which {part.path} keeps; the same command goes on there"
        ) from None


def _window(segmenter: Segmenter, pictures: Sequence[Raster], rows: slice, columns: slice) -> Tensor:
    try:
        return stacked(segmenter, [picture.read(rows, columns) for picture in pictures])
    except FullyconvError as error:
        raise FullyconvError(error.code, error.message.replace("the given image", str(pictures[0].path))) from None


def _tell(segmenter: Segmenter, file: Path, cut: Plan, row_bytes: int, done: int) -> None:
    """Says what is to come, on stderr: tiles, memory, time."""
    height, width = cut.size
    memory, free = cut.memory(segmenter.model, row_bytes), free_memory(segmenter.model.mean.device)
    overlap = "blending into each other" if cut.blended else f"computing {cut.work:.2f} times the image's pixels"
    minutes = (height - done) * width * cut.work * _seconds_per_pixel(segmenter) / 60
    told = [
        f"{file}: {width} x {height} pixels in {len(cut.columns)} x {len(cut.rows)} tiles of {cut.tile}, {overlap}; "
        f"about {_shown(memory + process_memory())} of memory in all, {max(1, round(minutes))} min"
    ]
    if done:
        told.append(f"going on at row {done} of {height}")
    if cut.window[0] > 2 * cut.tile and cut.window[0] > cut.rows[0].inner_stop:
        told.append(
            "most of what is computed is overlap, as the tiles are small for this network; --tile auto is quicker"
        )
    if memory > free:
        told.append(f"only {_shown(free)} are free; smaller tiles take less")
    if cut.blended:
        told.append(
            f"the network looks at whole images at once ({', '.join(segmenter.model.global_operations)}), so scores "
            "differ a little from those of the whole, and depend on the tile"
        )
    print("\n".join(told), file=sys.stderr)


@torch.inference_mode()
def _seconds_per_pixel(segmenter: Segmenter) -> float:
    """Measured on a blank square, the second time, as runtimes prepare themselves the first time."""
    blank = torch.zeros(segmenter.channels, TRIAL_SIDE, TRIAL_SIDE)
    whole_scores(segmenter.engine, blank)
    return seconds_of(lambda: whole_scores(segmenter.engine, blank)) / TRIAL_SIDE**2


def _write(write: Callable[[Path], None], path: Path) -> None:
    """Lets a file or folder appear whole or not at all."""
    try:
        with whole(path) as draft:
            write(draft)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise FullyconvError(
            "SEG-P007", f"the disk of {path} is full; free some space and repeat the command to finish"
        ) from None


def _preview(segmenter: Segmenter, pictures: Sequence[Raster], part: Part) -> Any:
    """The overlay with its legend, of every so many pixels of the image and of its label map."""
    height, width = part.size
    step = math.ceil(max(part.size) / PREVIEW_SIDE)
    step = min(step, height, width)
    seen = stacked(segmenter, [picture.preview(step) for picture in pictures])
    rows = range(step // 2, height // step * step, step)
    mask = np.concatenate([part.read(row, row + 1)[:, step // 2 : width // step * step : step] for row in rows])
    return drawing.overlay(images.to_rgb(seen), mask, segmenter.labels)


def _one_size(pictures: Sequence[Raster]) -> tuple[int, int]:
    sizes = [f"{picture.path} {picture.size[1]}x{picture.size[0]}" for picture in pictures]
    if len({picture.size for picture in pictures}) > 1:
        raise FullyconvError("SEG-D030", f"the pictures of one scene must be alike in size, got {', '.join(sizes)}")
    return pictures[0].size


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
