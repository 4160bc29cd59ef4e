"""Files that appear whole or not at all, whatever stops the program while it writes them."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where a file finds no more room: on the disk, in the user's quota, in one file."""

LONGEST_STEM = 40
"""Letters of a name that stay to be read, of up to four bytes each: file systems take names of 255 bytes."""


@contextmanager
def whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Where to write a file or folder; it takes the place of `path` when the block ends well, and is removed else.

    Its folder is made, and what a killed program left is removed.

    Args:
        path: What stands there stays as it is until then.
        durable: Whether the contents are on the disk before the name is, so that they survive a power cut.

    Raises:
        OSError: Naming `path`, also where the system names no file, as for a full disk.
    """
    draft = path.with_name(f"{_hidden(path)}.draft{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(draft)
    try:
        yield draft
        for file in (draft, *draft.rglob("*")) if durable else ():
            if file.is_file():
                _sync(file)
        if draft.is_dir() and path.is_dir():  # which no rename replaces
            old = set_aside(path)
            _remove(old)
            path.rename(old)
            draft.rename(path)
            _remove(old)
        else:
            draft.replace(path)
        if durable and os.name == "posix":  # elsewhere a folder cannot be opened, and need not be
            _sync_folder(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(draft)):  # without a number it is not the system's
            error.filename = str(path)
        raise
    finally:
        _remove(draft)


def refuse_unwritable(path: Path) -> None:
    """Raises the system's error now where nothing could be written later; leaves no file and no folder.

    Args:
        path: Of a file or folder that comes to stand at the end of long work.

    Raises:
        OSError: Naming the folder that cannot be made, or in which nothing can.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        error.filename = str(path.parent)
        raise
    finally:
        for folder in missing:  # the innermost first
            if folder.exists():
                folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def set_aside(folder: Path) -> Path:
    """Where an older folder stands in the instant that a whole new one takes its place, and after a kill in it."""
    return folder.with_name(f"{_hidden(folder)}.old")


def _hidden(path: Path) -> str:
    """What hidden files that stand for a path are named after; of no other path in its folder."""
    return f".{path.stem[:LONGEST_STEM]}.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}"


def _sync(file: Path) -> None:
    """Makes sure that a file's contents are on the disk."""
    with file.open("rb+") as handle:  # Windows syncs only what may be written
        os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
