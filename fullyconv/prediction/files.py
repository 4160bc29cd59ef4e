"""Images in files to masks in files."""

import glob
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fullyconv import images, rasters
from fullyconv.ahead import ahead
from fullyconv.errors import FullyconvError
from fullyconv.prediction.segmentation import Segmentation, output_files
from fullyconv.prediction.segmenter import Segmenter, opened
from fullyconv.prediction.streaming import stream, streamed_files, unfinished
from fullyconv.prediction.tiles import WHOLE_IMAGE_PIXELS, Tiling, refuse_tile
from fullyconv.prediction.unfinished import Origin, identity, recorded, recording, settings_of
from fullyconv.progress import progress
from fullyconv.runtimes.computing import Runtime
from fullyconv.runtimes.formats import Precision
from fullyconv.wording import counted

MOST_FAULTS = 5  # images that cannot be read and are told of in full


@dataclass(frozen=True)
class Predictions:
    """What `predict_files` wrote, and what computed it."""

    outputs: tuple[dict[str, Any], ...]
    runtime: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """`{"outputs": [{"input", "mask", "overlay", "seconds"}], "runtime": {"name", "precision"}}`."""
        return {"outputs": list(self.outputs), "runtime": self.runtime}

    def __str__(self) -> str:
        lines = [f"{output['input']} -> {output['mask']}  ({output['seconds']:.2f} s)" for output in self.outputs]
        return "\n".join(lines)


def predict_files(
    model: str | Path | Segmenter,
    inputs: Sequence[str],
    *,
    out: str | Path,
    more: Sequence[Annotated[str, "PATH"]] = (),
    head: Annotated[str, "NAME"] | None = None,
    tile: Tiling = "auto",
    runtime: Runtime = "auto",
    precision: Precision = "fp32",
    calibrate: str | Path | None = None,
) -> Predictions:
    """Segment images: a label map with the palette and an overlay with a legend for each.

    Label maps are PNGs; those of zarr arrays, of TIFFs with a georeference and of TIFFs above 64 megapixels are written
    by windows in the format of the image. A command that was stopped goes on where it was when it is given again.

    Args:
        model: Model folder or run folder.
        inputs: Image files, folders, globs, or templates such as 'rgb/{name}.png'.
        out: Folder for `NAME.png` and `NAME_overlay.png`; files that stand there already are refused.
        more: Further pictures of each scene, such as 'depth/{name}.png'. `{name}` is what it stands for in the input's
            template, or the input's name without suffix; `{folder}` is the input's folder.
        head: Of a network with several heads, which one; the first if left out.
        tile: Side of the tiles in pixels, a multiple of the coarsest stride; none never tiles, auto above 4 megapixels.
        runtime: What computes; fastest finds out on the first image, which takes a minute, and the model folder
            remembers it for auto.
        precision: What convolutions compute in; int8 is measured on --calibrate first.
        calibrate: Data or a folder of images for int8, best those that the model was trained on; the model folder keeps
            what was measured, so that later commands leave this out.

    Example:
        fullyconv predict runs/a photos/ --out masks/
    """
    out = Path(out)
    if out.is_file():
        raise FullyconvError("SEG-P003", f"{out} is a file; give --out the name of a folder")
    scenes = _scenes(inputs, more, out)
    before = recorded(out)
    _refuse_taken(scenes, before)
    segmenter = opened(model, head=head, runtime=runtime, precision=precision, calibrate=calibrate)
    refuse_tile(segmenter.model, tile)
    finished = frozenset(scene for scene in scenes if scene.finished)
    pictures = {scene.name: list(map(identity, scene.pictures)) for scene in scenes}
    origin = Origin(settings_of(segmenter, tile, calibrate), pictures)
    if before:
        before.refuse_other(origin, out, [scene.name for scene in scenes if scene in finished or scene.begun])
    _tell(segmenter, scenes, tile)
    outputs = []
    with recording(out, origin), _progress(scenes) as advance:
        for output in _predicted(segmenter, scenes, finished, tile):
            outputs.append(output)
            advance()
    return Predictions(tuple(outputs), segmenter.engine.to_json())


def _progress(scenes: Sequence["Scene"]) -> AbstractContextManager[Callable[..., None]]:
    """A bar over images, where those have none of their own."""
    if any(scene.by_windows for scene in scenes):
        return nullcontext(lambda: None)
    return progress(len(scenes), "predicting")


def _predicted(
    segmenter: Segmenter, scenes: Sequence["Scene"], finished: Set["Scene"], tile: Tiling
) -> Iterator[dict[str, Any]]:
    """Predicts what is not finished, and gives the JSON of every scene; a thread writes while the next is computed.

    Raises:
        FullyconvError: What `Segmenter` raises for one image, or for the first if none of several can be read;
            SEG-P009, when the others are done, if some cannot.
        KeyboardInterrupt: Saying how to go on.
    """
    faults: list[tuple[Scene, FullyconvError]] = []

    def computed() -> Iterator[tuple[Scene, float, Segmentation | None]]:
        for scene in scenes:
            begun = time.perf_counter()
            try:
                found = None if scene in finished else scene.predict(segmenter, tile)
            except FullyconvError as fault:
                if len(scenes) == 1 or not fault.code.startswith("SEG-D"):
                    raise
                if len(faults) < MOST_FAULTS:
                    print(fault, file=sys.stderr)
                faults.append((scene, fault))
            else:
                yield scene, begun, found

    try:
        for (scene, begun, _), end in ahead(_written, computed(), most=2):
            yield {**scene.to_json(), "seconds": round(end - begun, 3)}
    except KeyboardInterrupt as stop:
        done = sum(scene.finished for scene in scenes)
        told = f"stopped after {done} of {counted(len(scenes), 'image')}; the same command goes on there"
        raise KeyboardInterrupt(str(stop) or told) from None
    if len(faults) == len(scenes):
        raise faults[0][1]
    if faults:
        scene, _ = faults[0]
        raise FullyconvError(
            "SEG-P009",
            f"{len(faults)} of {counted(len(scenes), 'image')} could not be read, such as {scene.image}; the "
            f"others are in {scene.folder}: mend these, and the same command predicts them alone",
        )


def _written(computed: tuple["Scene", float, Segmentation | None]) -> float:
    """Writes what is not written yet; gives the time when it is."""
    scene, _, found = computed
    if found is not None:
        found.save(scene.folder, scene.name)
    return time.perf_counter()


@dataclass(frozen=True)
class Scene:
    """An image to predict, with its further pictures, and where the results go.

    Args:
        pictures: Files; the first is the image.
        folder: Of the results.
        name: Of the results.
        by_windows: Whether its pictures are read so, as `rasters.by_windows` says.
    """

    pictures: tuple[Path, ...]
    folder: Path
    name: str
    by_windows: bool

    @property
    def image(self) -> Path:
        return self.pictures[0]

    @property
    def results(self) -> tuple[Path, Path]:
        """The label map and the overlay."""
        if self.by_windows:
            return streamed_files(self.folder, self.name, self.image)
        return output_files(self.folder, self.name)

    @property
    def finished(self) -> bool:
        """Whether both results are there and whole."""
        return all(file.exists() for file in self.results) and not self.begun

    @property
    def begun(self) -> bool:
        """Whether the label map is there in part."""
        return unfinished(self.results[0]).exists()

    def predict(self, segmenter: Segmenter, tile: Tiling) -> Segmentation | None:
        """What is to be written; nothing of a scene that is read by windows, and so written already."""
        if self.by_windows:
            stream(segmenter, self.pictures, self.folder, self.name, tile)
            return None
        return segmenter(self.image, more=self.pictures[1:], tile=tile)

    def to_json(self) -> dict[str, str]:
        mask, overlay = self.results
        return {"input": str(self.image), "mask": str(mask), "overlay": str(overlay)}


def _scenes(inputs: Sequence[str], more: Sequence[str], out: Path) -> list[Scene]:
    """What is to be predicted.

    Raises:
        FullyconvError: SEG-P001 for an input that leads nowhere, SEG-P002 for results of one name, SEG-D030 for a
            further picture that is not there, SEG-D024 for a raster that needs a package.
    """
    named = list(_found(inputs))
    names = _names([file for file, _ in named])
    scenes = [(file, *_further(file, known_as, more)) for file, known_as in named]
    return [Scene(pictures, out, name, _by_windows(pictures)) for pictures, name in zip(scenes, names, strict=True)]


def _by_windows(pictures: Sequence[Path]) -> bool:
    """Whether the pictures of a scene are read by windows.

    Raises:
        FullyconvError: SEG-D030 if one of them is, and another cannot be.
    """
    kinds = dict(zip(map(_is_for_windows, pictures), pictures, strict=True))
    if len(kinds) > 1:
        raise FullyconvError(
            "SEG-D030",
            f"{kinds[True]} is read by windows, which {kinds[False]} cannot be; give both as GeoTIFF or zarr, or both "
            "as plain pictures",
        )
    return True in kinds


def _is_for_windows(picture: Path) -> bool:
    try:
        return rasters.by_windows(picture)
    except FullyconvError as fault:
        if fault.code != "SEG-D009":
            raise
        return False  # it is damaged, and fails in its turn


def _refuse_taken(scenes: Sequence[Scene], before: Origin | None) -> None:
    """Raises SEG-P003 if files stand in the way that no stopped command has left."""
    known = before.pictures if before else ()
    taken = [file for scene in scenes if scene.name not in known for file in scene.results if file.exists()]
    if taken:
        raise FullyconvError(
            "SEG-P003", f"{counted(len(taken), 'file')} in the way, such as {taken[0]}; choose another --out"
        )


def _tell(segmenter: Segmenter, scenes: Sequence[Scene], tile: Tiling) -> None:
    """Says on stderr what a user would not expect of some images."""
    mixing = segmenter.model.global_operations
    whole = [scene for scene in scenes if not scene.by_windows]
    if mixing and tile != "none" and whole:
        print(
            f"This network looks at whole images at once ({', '.join(mixing)}), so tiles of images above "
            f"{WHOLE_IMAGE_PIXELS / 1e6:g} megapixels blend, and differ a little from the whole; --tile none avoids "
            "them.",
            file=sys.stderr,
        )
    for scene in whole:
        pages = images.pages(scene.image)
        if pages > 1 and pages != segmenter.bands[0]:
            print(f"{scene.image} holds {pages} pages; only the first is looked at.", file=sys.stderr)


def _found(inputs: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The files that inputs stand for, each with its name: what `{name}` stands for in a template, else its stem."""
    for given in inputs:
        path = Path(given)
        if rasters.is_zarr(path):
            files = [path]
        elif path.is_dir():
            files = sorted(file for file in path.iterdir() if _is_image(file))
        elif path.is_file():
            files = [path]
        else:
            matching = sorted(glob.glob(given.replace("{name}", "*"), recursive=True))
            files = [Path(file) for file in matching if Path(file).is_file() or rasters.is_zarr(Path(file))]
        if not files:
            raise FullyconvError("SEG-P001", _nothing_found(path))
        yield from ((file, _name_in(file, given)) for file in files)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in images.IMAGE_SUFFIXES or rasters.is_zarr(file)


def _name_in(file: Path, given: str) -> str:
    if "{name}" not in given:
        return file.stem
    parts = re.split(r"(\{name\}|\*\*/|\*|\?|\[[^]]+\])", Path(given).as_posix())
    pattern = "".join(map(_expression, parts)).replace("{name}", "([^/]*)", 1).replace("{name}", r"\1")
    match = re.fullmatch(pattern, file.as_posix(), re.IGNORECASE)  # as the file system may do
    assert match, f"{file} was found by {given}"
    return match[1]


def _expression(part: str) -> str:
    """The regular expression for a part of a glob; `{name}` stays."""
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]", "{name}": "{name}"}
    if part.startswith("["):
        return part.replace("[!", "[^", 1)
    return known.get(part) or re.escape(part)


def _further(file: Path, name: str, templates: Sequence[str]) -> list[Path]:
    """The further pictures of a scene, which templates name.

    Raises:
        FullyconvError: SEG-D030 if one is not there.
    """
    pictures = [
        Path(template.replace("{folder}", file.parent.as_posix()).replace("{name}", name)) for template in templates
    ]
    absent = [picture for picture in pictures if not (picture.is_file() or rasters.is_zarr(picture))]
    if absent:
        raise FullyconvError(
            "SEG-D030",
            f"{file} should be seen with {absent[0]}, which does not exist; --more counts from here, and from the "
            "image's folder if it begins with {folder}/",
        )
    return pictures


def _nothing_found(path: Path) -> str:
    if path.is_dir():
        held = sorted({file.suffix or "no suffix" for file in path.iterdir() if file.is_file()})
        found = f"holds no images, but files with {', '.join(held[:5])}" if held else "holds no files"
        return f"{path} {found}; give a folder of images"
    return f"{path} does not exist and matches no file; give an image, a folder or a quoted glob such as 'photos/*.jpg'"


NAMES: tuple[Callable[[Path], str], ...] = (
    lambda file: file.stem,
    lambda file: f"{file.parent.name}_{file.stem}",
    lambda file: f"{file.stem}_{file.suffix[1:]}",
    lambda file: f"{file.parent.name}_{file.stem}_{file.suffix[1:]}",
)
"""What a result may be named after, from short to long."""


def _names(files: Sequence[Path]) -> list[str]:
    """One output name per file: the shortest of `NAMES` that tells all files of its stem apart."""
    alike: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        alike[file.stem].append(file)
    forms = {stem: _telling_apart(group) for stem, group in alike.items()}
    names = [forms[file.stem](file) for file in files]
    written: dict[str, list[Path]] = defaultdict(list)
    for file, name in zip(files, names, strict=True):
        for output in output_files(Path(), name):
            written[output.name.lower()].append(file)
    result, sharing = max(written.items(), key=lambda item: len(item[1]))
    if len(sharing) > 1:
        raise FullyconvError(
            "SEG-P002",
            f"{sharing[0]} and {sharing[1]} would both be written as {result}; rename one, or predict them into "
            "different folders",
        )
    return names


def _telling_apart(files: Sequence[Path]) -> Callable[[Path], str]:
    telling = (form for form in NAMES if len(set(map(form, files))) == len(files))
    return next(telling, NAMES[-1])
