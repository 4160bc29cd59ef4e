"""What an experiment works with: its settings and data, parts that are measured only once, and word of how it goes."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from fullyconv.datasets import Dataset, open_dataset, with_heads
from fullyconv.experiments.scenes import plain, write_digits
from fullyconv.timing import load, machine
from fullyconv.writing import write_json


@dataclass(frozen=True)
class Settings:
    """What was asked for; kept as settings.json, and what `--resume` follows.

    Args:
        name: Of the experiment.
        data: A path, or LAYOUT:PATH; None for the embedded digits.
        also: Other masks of the same images, each for a head, as `train` takes them.
        minutes: Time limit of the whole experiment.
        trunk: Classifier below the nets that are trained, as in fcn8s-TRUNK.
        pretrained: What the nets start from: crops, none, hub, or a file or run.
        seed: The first of the seeds; the others follow it.
        camera: What took the depth, as `reproduce` takes it.
    """

    name: str
    data: str | None
    also: tuple[str, ...]
    minutes: float
    trunk: str
    pretrained: str
    seed: int
    camera: str | None = None


class Workbench:
    """The place of one experiment: a folder, a clock, and what has been measured so far.

    A part is measured once: its value is kept as `parts/NAME.json` and read from there when the experiment goes on
    after an interruption.

    Args:
        settings: What was asked for.
        folder: Of the experiment; parts and training runs are kept in it.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.begun = time.monotonic()
        self.spent_seconds: float = sum(part["seconds"] for part in _parts(folder))
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.doing = "starting"

    @cached_property
    def whole(self) -> Dataset:
        """The data that were named, with all pictures of a scene and all labels; or the embedded digits, written into
        the folder."""
        if self.settings.data is None:
            return write_digits(self.folder / "digits", seed=self.settings.seed)
        return with_heads(open_dataset(self.settings.data), self.settings.also)

    @cached_property
    def dataset(self) -> Dataset:
        """The images of the data under their first labels."""
        return plain(self.whole)

    @property
    def data(self) -> str:
        """Which data the experiment has used, in words."""
        if "whole" not in vars(self):
            return "none needed"
        return self.settings.data or "handwritten digits on cluttered canvases, embedded"

    def machine(self) -> dict[str, str]:
        """What computed the parts, those of earlier sessions included, and how busy it was at the end of each."""
        parts = _parts(self.folder)
        loads = [part["load"] for part in parts if part["load"] is not None]
        told = {"machine": "; ".join(dict.fromkeys(part["machine"] for part in parts))}
        return {**told, "load": f"{min(loads)} to {max(loads)}"} if loads else told

    def seconds(self) -> float:
        """What the experiment has taken so far, interrupted sessions included."""
        return self.spent_seconds + time.monotonic() - self.begun

    def seconds_left(self) -> float:
        """Until the time limit; never negative."""
        return max(0.0, 60 * self.settings.minutes - self.seconds())

    def part(self, name: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        """The value of one part, as JSON holds it: measured now, or read if an earlier session has measured it.

        Args:
            name: A file name without suffix, unique within the experiment.
            measure: Gives plain values: numbers, texts, lists and dicts with text keys.
            arguments: Handed to `measure`.
        """
        file = self.folder / "parts" / f"{name}.json"
        if not file.is_file():
            self.doing = name
            begun = time.monotonic()
            value = measure(*arguments)
            seconds = time.monotonic() - begun
            write_json(file, {"seconds": seconds, "machine": machine(), "load": load(), "value": value})
        return json.loads(file.read_text(encoding="utf-8"))["value"]

    def say(self, text: str) -> None:
        """One line for people, with the time that has passed."""
        self.console.print(f"[{self.seconds():5.0f} s] {text}", markup=False)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """While this is entered, a terminal shows what is being done and the time left."""
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self._state, console=self.console, transient=True, redirect_stderr=False):
            yield

    def _state(self) -> str:
        limit, left = _clock(60 * self.settings.minutes), _clock(self.seconds_left())
        return f"{self.doing}  {_clock(self.seconds())} of {limit}, at most {left} left"

    @contextmanager
    def quiet(self, log: Path) -> Iterator[None]:
        """Sends what others write on stderr into a file, so that the experiment's own lines stay readable."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as lines, redirect_stderr(lines):
            yield


def _parts(folder: Path) -> list[dict[str, Any]]:
    """What has been measured so far, earlier sessions included."""
    files = sorted((folder / "parts").glob("[!.]*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
