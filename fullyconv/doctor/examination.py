"""What the doctor found, as data and as text."""

import textwrap
from dataclasses import asdict, dataclass, replace
from typing import Any

from fullyconv.errors import FullyconvError
from fullyconv.wording import counted

WIDTH = 100
MOST_CLASSES_SHOWN = 30
MOST_FILES_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    Args:
        code: A key of `errors.FAULTS`.
        where: The first file concerned, relative to the data set where it can be; or the data set.
        count: How many files, or classes, are concerned.
        message: What is wrong, in a sentence that names the file and the numbers.
        fix: What to do.
        files: Every file concerned, if it is about files; `where` is the first.
    """

    code: str
    where: str
    count: int
    message: str
    fix: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = textwrap.wrap(f"{self.code}  {self.message}", WIDTH, subsequent_indent=" " * 10)
        if len(self.files) > 1:
            more = f", ... (all {len(self.files)} with --json)" if len(self.files) > MOST_FILES_SHOWN else ""
            told = f"files: {', '.join(self.files[:MOST_FILES_SHOWN])}{more}"
            lines += textwrap.wrap(told, WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 17)
        return "\n".join(
            [*lines, *textwrap.wrap(self.fix, WIDTH, initial_indent=" " * 10 + "fix: ", subsequent_indent=" " * 15)]
        )


@dataclass(frozen=True)
class Examination:
    """A data set's state of health.

    Args:
        title: Layout and place.
        splits: The number of pairs in each split.
        classes: For each class its name, its pixels, and the masks that hold it, as `{"name", "pixels", "images"}`.
        examined: How many masks the counts come from.
        errors: What makes training impossible or wrong.
        warnings: What may make it worse.
        notes: What was inferred.
        masks: How many masks there are, examined or not.
    """

    title: str
    splits: dict[str, int]
    classes: tuple[dict[str, Any], ...]
    examined: int
    errors: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    masks: int = 0

    def to_json(self) -> dict[str, Any]:
        """The keys errors, warnings, splits and classes, and what else is known, as plain values."""
        return {
            "errors": [asdict(finding) for finding in self.errors],
            "warnings": [asdict(finding) for finding in self.warnings],
            "splits": dict(self.splits),
            "classes": [dict(entry) for entry in self.classes],
            "examined": self.examined,
            "masks": self.masks,
            "notes": list(self.notes),
        }

    def refuse_if_broken(self) -> None:
        """Do nothing if there are no errors.

        Raises:
            FullyconvError: With the code of the first error, and how many more there are.
        """
        if not self.errors:
            return
        first, others = self.errors[0], len(self.errors) - 1
        more = f" ({counted(others, 'more error')}: see fullyconv check)" if others else ""
        raise FullyconvError(first.code, f"{first.message}; {first.fix}{more}")

    def with_notes(self, *notes: str) -> "Examination":
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def __str__(self) -> str:
        sizes = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        parts = [f"{self.title}: {counted(len(self.classes), 'class')}; {sizes}", self._table()]
        parts += [textwrap.fill(f"note  {note}", WIDTH, subsequent_indent=" " * 6) for note in self.notes]
        parts += [f"warning {finding}" for finding in self.warnings]
        parts += [f"error   {finding}" for finding in self.errors]
        errors = counted(len(self.errors), "error") if self.errors else "No errors"
        decoded = f"; {self.examined} of {self.masks} masks decoded" if self.examined < self.masks else ""
        parts.append(f"{errors}, {counted(len(self.warnings), 'warning')}{decoded}.")
        return "\n\n".join(part for part in parts if part)

    def _table(self) -> str:
        total = sum(entry["pixels"] for entry in self.classes)
        shown = self.classes[:MOST_CLASSES_SHOWN]
        width = max(len("class"), *(len(entry["name"]) for entry in shown))
        rows = [f"  {'class':<{width}}  pixels   masks (of {self.examined})"]
        rows += [
            f"  {entry['name']:<{width}}  {_percent(entry['pixels'], total):>6}  {entry['images']:6}" for entry in shown
        ]
        hidden = len(self.classes) - len(shown)
        return "\n".join(rows + ([f"  and {hidden} more"] if hidden else []))


def _percent(part: int, whole: int) -> str:
    """A share to a tenth of a percent, without rounding something to nothing."""
    return "<0.1%" if 0 < part < whole / 2000 else f"{part / max(1, whole):.1%}"
