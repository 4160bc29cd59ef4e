"""What a run says while it goes: metrics.jsonl always, TensorBoard where installed, a progress bar on a terminal."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fullyconv.writing import write_text

if TYPE_CHECKING:
    from accelerate import Accelerator

EVERY_STEPS = 10


class Journal:
    """Writes and shows what happens; silent on all processes but the first.

    Args:
        run: The run folder; metrics.jsonl stands in it.
        accelerator: Knows which process this is, and its trackers.
        from_step: Lines of later steps, left by a session that was killed, are removed.
    """

    def __init__(self, run: Path, accelerator: "Accelerator", *, from_step: int) -> None:
        self.accelerator = accelerator
        self.active = accelerator.is_main_process
        self.file = run / "metrics.jsonl"
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.first: tuple[float, float] | None = None
        self.mean_iou = ""
        if not self.active:
            return
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        write_text(self.file, "".join(f"{line}\n" for line in lines if _step(line) <= from_step))

    def __enter__(self) -> "Journal":
        if self.active and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                TextColumn("{task.percentage:5.1f} %"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[facts]}"),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task("training", total=1.0, facts="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, text: str) -> None:
        """One line for people."""
        if self.active:
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def write(self, kind: str, values: Mapping[str, Any]) -> None:
        """Takes note of a training step or a validation.

        Args:
            kind: `train` or `validation`.
            values: With `step`, and for people `loss`, `progress`, `mean_iou`, ...
        """
        if not self.active:
            return
        if kind == "validation":
            self.mean_iou = f"val mean IoU {100 * values['mean_iou']:.1f}"
            best = ", the best so far" if values["best"] else ""
            self.say(
                f"step {values['step']:>6}  {self.mean_iou}, pixel accuracy {100 * values['pixel_accuracy']:.1f}{best}"
            )
        else:
            self._show(values)
            if values["step"] % EVERY_STEPS and values["step"] > EVERY_STEPS:
                return
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"kind": kind, **values}) + "\n")
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=values["step"])

    def _show(self, values: Mapping[str, Any]) -> None:
        progress, now = values["progress"], time.monotonic()
        self.first = self.first or (progress, now)
        if self.bar and self.task is not None:
            done = progress - self.first[0]
            left = (1 - progress) * (now - self.first[1]) / done if done > 0 else None
            eta = f"{int(left // 60)}:{int(left % 60):02d} left" if left is not None else ""
            facts = f"{eta}  step {values['step']}  loss {values['loss']:.4f}  {self.mean_iou}"
            self.bar.update(self.task, completed=progress, facts=facts)


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return sys.maxsize
