"""What an experiment found: our numbers beside the paper's, under which conditions, and what may be concluded."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Side = Literal["above", "level", "below"]

# Student's t that 95 % of draws stay within, by degrees of freedom from 1 on; beyond these, 1.96 + 2.5 / freedom is
# right within a hundredth.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Row:
    """One number of ours, beside the paper's.

    Args:
        label: What was measured, such as FCN-16s.
        measure: Which property of it, such as mean IU.
        ours: The number; NaN if it could not be had.
        unit: Of all numbers of the row, such as % or ms; empty for a bare number.
        paper: What the paper says; None if it says nothing.
        released: What the authors' released models give when they are scored again, where that differs.
        repetitions: The numbers that ours was computed from, one per seed or round.
        one_class: Whether ours is the score of nets that name one class nearly everywhere.
    """

    label: str
    measure: str
    ours: float
    unit: str = ""
    paper: float | None = None
    released: float | None = None
    repetitions: tuple[float, ...] = ()
    one_class: bool = False

    @property
    def spread(self) -> float | None:
        """The standard deviation of the repetitions; None for fewer than two."""
        return statistics.stdev(self.repetitions) if len(self.repetitions) > 1 else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "repetitions": list(self.repetitions), "spread": self.spread}


def mean_row(
    label: str,
    measure: str,
    values: Sequence[float],
    *,
    unit: str = "",
    paper: float | None = None,
    released: float | None = None,
    one_class: bool = False,
) -> Row:
    """The row of a number that was measured once per seed: their mean."""
    return Row(label, measure, statistics.fmean(values), unit, paper, released, tuple(values), one_class)


@dataclass(frozen=True)
class Curve:
    """A line to draw beside the rows.

    Args:
        label: Which one it is; lines of one label share a colour.
        panel: The title of the panel that it belongs to.
        across: What stands on its horizontal axis, with the unit.
        x: Ascending.
        y: One per x.
    """

    label: str
    panel: str
    across: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Findings:
    """Rows, conditions and conclusion of one experiment.

    Args:
        rows: In the order of the table; rows of one label stand together there.
        conclusion: What may be concluded at this scale, in a sentence made from the numbers.
        conditions: What else was the same or chosen: nets, seeds, steps. Machine, data and minutes are added later.
        curves: Drawn beside the rows.
    """

    rows: tuple[Row, ...]
    conclusion: str
    conditions: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": [row.to_json() for row in self.rows],
            "conclusion": self.conclusion,
            "conditions": dict(self.conditions),
            "curves": [asdict(curve) for curve in self.curves],
        }


@dataclass(frozen=True)
class Comparison:
    """Two rows of one measure, how far apart chance alone would put them, and what the paper sees.

    Args:
        first: What is judged.
        second: What it is judged against.
        margin: A difference beyond this, either way, is seen by chance once in twenty times; None if it is not known,
            because nothing was repeated.
        paper: Where the paper has the first; None if it does not say.
    """

    first: Row
    second: Row
    margin: float | None
    paper: Side | None = None

    @property
    def difference(self) -> float:
        return self.first.ours - self.second.ours

    @property
    def empty(self) -> bool:
        """Whether neither has learnt to tell classes apart, so that nothing may be concluded."""
        return self.first.one_class and self.second.one_class

    @property
    def seen(self) -> Side | None:
        """Where the first is here: `level` if chance may explain the difference; None if that is not known."""
        if self.margin is None or self.empty:
            return None
        if abs(self.difference) <= self.margin:
            return "level"
        return "above" if self.difference > 0 else "below"

    def __str__(self) -> str:
        unit = "points" if self.first.unit == "%" else self.first.unit
        sign = "+" if self.difference >= 0 else "-"
        size = f"{sign}{self._number(abs(self.difference))} {unit}".strip() + f" of {self.first.measure}"
        told = f"{self.first.label} against {self.second.label}: {size}"
        if self.margin is None:
            return told
        spread = f"the spread (± {self._number(self.margin)})"
        if self.seen == "level":
            return f"{told}, no difference beyond {spread}{self._beside_the_paper()}"
        return f"{told}, beyond {spread}{self._beside_the_paper()}"

    def _number(self, value: float) -> str:
        return number(value, self.first.unit)

    def _beside_the_paper(self) -> str:
        if self.paper is None:
            return ""
        if self.paper == self.seen:
            return ", as in the paper"
        if self.seen == "level":
            return f", where the paper has it {self.paper}"
        return ", where the paper sees none" if self.paper == "level" else ", against the paper"


def compare(rows: Sequence[Row], first: str, second: str, measure: str, *, paper: Side | None = None) -> Comparison:
    """Two labels compared in one measure; the spread is pooled over all rows of the measure.

    Source: Student's t with the pooled variance of the repetitions.
    """
    of_measure = {row.label: row for row in rows if row.measure == measure}
    one, other = of_measure[first], of_measure[second]
    return Comparison(one, other, _margin(one, other, list(of_measure.values())), paper)


def conclude(scale: str, comparisons: Sequence[Comparison]) -> str:
    """The sentence of an experiment: at which scale, then what was seen of each difference."""
    told = [str(comparison) for comparison in comparisons if not comparison.empty]
    known = any(comparison.margin is not None for comparison in comparisons if not comparison.empty)
    caution = ", once each, so that chance may explain any difference" if told and not known else ""
    empty = [row for one in comparisons if one.empty for row in (one.first, one.second)]
    if empty:
        labels, measures = (
            dict.fromkeys(texts) for texts in zip(*((row.label, row.measure) for row in empty), strict=True)
        )
        told.append(
            f"{' / '.join(labels)} each name one class only, so that nothing may be concluded from their "
            f"{' and '.join(measures)}"
        )
    return f"{scale}{caution}: {'; '.join(told)}."


def _margin(one: Row, other: Row, rows: Sequence[Row]) -> float | None:
    repeated = [row.repetitions for row in rows if len(row.repetitions) > 1]
    if not one.repetitions or not other.repetitions or not repeated:
        return None
    freedom = sum(len(values) - 1 for values in repeated)
    variance = sum(statistics.variance(values) * (len(values) - 1) for values in repeated) / freedom
    error = math.sqrt(variance * (1 / len(one.repetitions) + 1 / len(other.repetitions)))
    return error * (STUDENT_T[freedom - 1] if freedom <= len(STUDENT_T) else 1.96 + 2.5 / freedom)


# Tables --------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: for each label a line of ours, and one for each of the other sources that says something."""
    measures = list(dict.fromkeys(row.measure for row in rows))
    units = {row.measure: row.unit for row in rows}
    headings = ["", "", *(f"{measure}, {units[measure]}" if units[measure] else measure for measure in measures)]
    lines = []
    for label in dict.fromkeys(row.label for row in rows):
        mine = {row.measure: row for row in rows if row.label == label}
        for source, show in _SOURCES.items():
            cells = [show(mine[measure]) if measure in mine else "" for measure in measures]
            if any(cells) or source == "ours":
                lines.append([label if source == "ours" else "", source, *cells])
    return headings, lines


def columns(headings: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns of one or more tables that are each no wider than `width` characters, with two behind each column.

    A heading may be broken between words, a cell may not; label and source come first in each.
    """
    least = [
        max(len(text) for text in (*heading.split(), *(line[place] for line in lines), ""))
        for place, heading in enumerate(headings)
    ]
    tables = [[0, 1]]
    for place in range(2, len(headings)):
        if len(tables[-1]) > 2 and sum(least[each] + 2 for each in (*tables[-1], place)) > width:
            tables.append([0, 1])
        tables[-1].append(place)
    return tables


def number(value: float | None, unit: str = "") -> str:
    """A number with as many digits as can be of use: three, and all of those before the point; percents with one
    after it."""
    if value is None:
        return ""
    if math.isnan(value):
        return "-"
    if unit == "%":
        return f"{value:.1f}"
    if value == 0 or abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _ours(row: Row) -> str:
    return number(row.ours, row.unit) + (f" ± {number(row.spread, row.unit)}" if row.spread is not None else "")


_SOURCES: dict[str, Callable[[Row], str]] = {
    "ours": _ours,
    "paper": lambda row: number(row.paper, row.unit),
    "released": lambda row: number(row.released, row.unit),
}


def markdown(findings: Findings, title: str, picture: Path | None = None) -> str:
    """The findings as a page of Markdown."""
    headings, lines = table(findings.rows)
    rows = [headings, ["---", "---", *("---:" for _ in headings[2:])], *lines]
    parts = [
        f"# {title}",
        "\n".join(f"| {' | '.join(cells)} |" for cells in rows),
        *([f"![{title}]({picture})"] if picture else []),
        findings.conclusion,
        "\n".join(f"* {name}: {shown(value)}" for name, value in findings.conditions.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(value: Any) -> str:
    """A condition as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {shown(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return number(value) if isinstance(value, float) else str(value)
