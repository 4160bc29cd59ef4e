"""What a folder of predictions is made from, kept there while it is not finished, so that the same command goes on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullyconv.errors import FullyconvError
from fullyconv.models import FCN
from fullyconv.runtimes.weights import digest
from fullyconv.writing import write_json

RECORD = ".unfinished.json"


@dataclass(frozen=True)
class Origin:
    """What label maps are made from.

    Args:
        settings: By which model, at which precision and tile: the same for all of a folder.
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
        changed = f"--tile {self.settings['tile']}" if other == ["tile"] else f"another {' and '.join(other)}"
        if not other:
            names = [name for name in there if self.pictures.get(name) != now.pictures[name]]
            changed = f"another image for {names[0]}" if names else ""
        if changed:
            raise FullyconvError(
                "SEG-P008",
                f"{folder} holds the beginning of a prediction with {changed}; give the same to go on with it, or "
                "choose another --out",
            )


def settings_of(model: FCN, precision: str, tile: int | str) -> dict[str, Any]:
    """What predictions depend on beside the pictures."""
    return {"model": digest(model), "precision": precision, "tile": tile}


def identity(picture: Path) -> list[Any]:
    """A file's place, its bytes, and when it was changed."""
    state = picture.stat()
    return [str(picture.resolve()), state.st_size, state.st_mtime_ns]


def recorded(folder: Path) -> Origin | None:
    """What the stopped command that filled a folder was given; none if there is no such command."""
    try:
        return Origin(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def recording(folder: Path, origin: Origin) -> Iterator[None]:
    """Keeps the record while a command works: it is gone when that ends, and stays when that is stopped or fails.

    What fails before it has written anything leaves nothing.
    """
    is_new = not folder.exists()
    file = folder / RECORD
    write_json(file, {"settings": origin.settings, "pictures": origin.pictures})
    try:
        yield
    except BaseException:
        if list(folder.iterdir()) == [file]:
            file.unlink()
            if is_new:
                folder.rmdir()
        raise
    file.unlink()
