"""What a folder of predictions is made from, kept there while it is not finished, so that the same command goes on."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fullyconv.errors import FullyconvError
from fullyconv.prediction.segmenter import Segmenter
from fullyconv.prediction.tiles import Tiling
from fullyconv.runtimes.weights import digest
from fullyconv.writing import write_json

RECORD = ".unfinished.json"


@dataclass(frozen=True)
class Origin:
    """What label maps are made from.

    Args:
        settings: By which model, at which precision and tile, and so on: the same for all of a folder.
        pictures: Of each name in the folder, what tells whether its files are still the ones that they were.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)

    def refuse_other(self, now: "Origin", folder: Path, there: Sequence[str]) -> None:
        """Raises SEG-P008 if `now` would go on in another way, or with other pictures than what is there.

        Args:
            now: What the command that is to go on with the folder was given.
            folder: Of this origin.
            there: The names whose results are there, whole or in part.
        """
        other = [name for name, value in now.settings.items() if self.settings.get(name) != value]
        changed = f"--tile {self.settings['tile']}" if other == ["tile"] else f"another {other[0]}" if other else ""
        if not other:
            names = [name for name in there if self.pictures.get(name) != now.pictures[name]]
            changed = f"another image for {names[0]}" if names else ""
        if changed:
            raise FullyconvError(
                "SEG-P008",
                f"{folder} holds the beginning of a prediction with {changed}; give the same to go on with it, or "
                "choose another --out",
            )


def settings_of(segmenter: Segmenter, tile: Tiling, calibrate: str | Path | None) -> dict[str, Any]:
    """What predictions depend on beside the pictures."""
    known = json.dumps([digest(segmenter.model), segmenter.architecture, segmenter.labels.to_dict()])
    engine = segmenter.engine
    return {
        "model": hashlib.sha256(known.encode()).hexdigest(),
        "precision": engine.precision,
        "runtime": None if engine.precision == "fp32" else engine.runtime,  # which all compute alike
        "calibration": None if calibrate is None else str(Path(calibrate).resolve()),
        "tile": tile,
    }


def identity(picture: Path) -> list[Any]:
    """A file's place, its bytes, and when it was changed; of a folder, of all that is in it."""
    states = [file.stat() for file in (picture, *picture.rglob("*"))]
    return [
        str(picture.resolve()),
        sum(state.st_size for state in states),
        max(state.st_mtime_ns for state in states),
        len(states),
    ]


def recorded(folder: Path) -> Origin | None:
    """What the stopped commands that filled a folder were given; none if there are no such commands.

    Raises:
        FullyconvError: SEG-P008 if it cannot be read.
    """
    file = folder / RECORD
    try:
        return Origin(**json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise FullyconvError(
            "SEG-P008",
            f"{file}, which a stopped prediction left, cannot be read ({error}); choose another --out, or remove "
            f"{folder} to begin anew",
        ) from None


@contextmanager
def recording(folder: Path, origin: Origin) -> Iterator[None]:
    """Keeps the record while a command works: it is gone when that ends, and stays when that is stopped or fails.

    What fails before it has written anything leaves nothing. What other commands have recorded in the folder stays.

    Args:
        folder: For the predictions.
        origin: Of those that this command makes.
    """
    is_new = not folder.exists()
    file = folder / RECORD
    others = recorded(folder) or Origin()
    _write(file, replace(origin, pictures={**others.pictures, **origin.pictures}))
    try:
        yield
    except BaseException:
        if list(folder.iterdir()) == [file]:
            file.unlink()
            if is_new:
                folder.rmdir()
        raise
    now = recorded(folder) or Origin()
    left = {name: picture for name, picture in now.pictures.items() if name not in origin.pictures}
    if left:
        _write(file, replace(now, pictures=left))
    else:
        file.unlink(missing_ok=True)


def _write(file: Path, origin: Origin) -> None:
    write_json(file, {"settings": origin.settings, "pictures": origin.pictures})
