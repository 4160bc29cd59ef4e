"""What a benchmark found: kept as JSON, told as text, as a page, and as a chart."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fullyconv import charts
from fullyconv.benchmark.comparing import Row, Target
from fullyconv.benchmark.machine import Cost, Machine, best_of
from fullyconv.benchmark.suites import SUITES
from fullyconv.errors import FullyconvError
from fullyconv.writing import whole, write_json, write_text

HEADINGS = (
    "work",
    "against",
    "ours, ms",
    "theirs, ms",
    "ratio (range)",
    "at least / aim",
    "memory, MB",
    "limit, ms",
    "alike",
)


@dataclass(frozen=True)
class Skipped:
    """A work whose peer is not installed."""

    suite: str
    work: str
    against: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """The rows of one suite or of several.

    Args:
        suite: Its name; `all` for several.
        rows: In the order of the suites.
        machine: That they were measured on.
        skipped: What could not be measured.
        quick: Whether the works have small sizes.
    """

    suite: str
    rows: tuple[Row, ...]
    machine: Machine
    skipped: tuple[Skipped, ...] = ()
    quick: bool = False

    def to_json(self) -> dict[str, Any]:
        """`{"suite", "rows": [{"work", "ours", "peer", "ratio", "spread", "memory", "peak_fraction", ...}], "machine",
        "skipped", "quick"}`; times are milliseconds, memory is megabytes of ours and of the peer."""
        return {
            "suite": self.suite,
            "rows": [self._row(row) for row in self.rows],
            "machine": asdict(self.machine),
            "skipped": [asdict(each) for each in self.skipped],
            "quick": self.quick,
        }

    def _row(self, row: Row) -> dict[str, Any]:
        limit = row.limit(self.machine)
        return {**asdict(row), "limit": limit, "peak_fraction": limit / row.ours, "met": row.met}

    def joined(self, earlier: "Report") -> "Report":
        """These rows and the earlier ones of the same machine that they do not replace; skipped is what has no row."""
        rows = {(row.suite, row.work, row.against): row for row in (*earlier.rows, *self.rows)}
        skipped = {(each.suite, each.work, each.against): each for each in (*earlier.skipped, *self.skipped)}
        ordered = sorted(rows.values(), key=lambda row: list(SUITES).index(row.suite))
        return Report(
            self.suite if len({row.suite for row in ordered}) == 1 else "all",
            tuple(ordered),
            best_of(self.machine, earlier.machine),
            tuple(each for key, each in skipped.items() if key not in rows),
            self.quick,
        )

    def write(self, file: Path) -> None:
        """Writes the JSON, and beside it the page and the chart under the same name, each whole or not at all."""
        write_json(file, self.to_json())
        write_text(file.with_suffix(".md"), page(self, file))
        if self.rows:
            with whole(file.with_suffix(".png")) as draft:
                charts.save(charts.ratios(self.to_json()["rows"]), draft)

    def __str__(self) -> str:
        lines = [line for row in self.rows for line in _told(row, self.machine)]
        lines += [f"{each.work}: skipped, {each.against} is not installed" for each in self.skipped]
        return "\n".join([self.machine.name, _peaks(self.machine), "", *lines])


def read(file: Path) -> Report:
    """What `Report.write` wrote.

    Raises:
        FullyconvError: SEG-B002 for any other file.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        rows = tuple(map(_row_of, values["rows"]))
        skipped = tuple(Skipped(**{**each, "missing": tuple(each["missing"])}) for each in values["skipped"])
        return Report(values["suite"], rows, Machine(**values["machine"]), skipped, values.get("quick", False))
    except (ValueError, KeyError, TypeError) as error:
        raise FullyconvError("SEG-B002", f"{file} is there and no benchmark; name another file with --out") from error


def _row_of(values: dict[str, Any]) -> Row:
    target = None if values["target"] is None else Target(**values["target"])
    memory = None if values["memory"] is None else tuple(values["memory"])
    made = {"cost": Cost(**values["cost"]), "target": target, "memory": memory, "spread": tuple(values["spread"])}
    return Row(**{**{name: values[name] for name in Row.__dataclass_fields__}, **made})


# As text -------------------------------------------------------------------------------------------------------------


def _told(row: Row, machine: Machine) -> list[str]:
    """A row for the terminal."""
    facts = [f"limit {_number(row.limit(machine))} ms ({_reached(row, machine)} reached)"]
    facts += [f"{_memory(row)} MB"] if row.memory else []
    facts += [alike] if (alike := _alike(row)) else []
    facts += [f"target {_target(row)}: {'met' if row.met else 'missed'}"] if row.target else []
    how = f" ({row.how})" if row.how else ""
    times = f"{_number(row.ours)} ms{how} against {_number(row.peer)} ms of {row.against}: {_ratio(row)}"
    return [row.work, f"  {times}", f"  {'; '.join(facts)}"]


def _peaks(machine: Machine) -> str:
    speeds = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in machine.operations.items())
    return f"peaks: {speeds} billion operations a second; copy {machine.copied / 1e9:.0f} GB/s"


def page(report: Report, file: Path) -> str:
    """The report as Markdown, with what it lacks.

    Args:
        report: What is told.
        file: Where its JSON stands; the chart stands beside it.
    """
    sections = [_section(suite, [row for row in report.rows if row.suite == suite], report.machine) for suite in SUITES]
    met = [row for row in report.rows if row.met]
    missed = [row for row in report.rows if row.met is False]
    parts = [
        "# Speed",
        f"Measured by `fullyconv benchmark`: {report.machine.name}; {_peaks(report.machine)}.",
        "All sizes are the small ones of `--quick`, which show that everything runs; their times say little."
        if report.quick
        else "",
        "Ours and the peer run in turn, A B A B, in one process; times are medians, the ratio is the median of the "
        "turns' ratios, with the least and the greatest. Memory is the peak of one call above the level before it, "
        "ours / theirs. The limit is what the work cannot do without, operations or bytes, over the machine's measured "
        "peaks; beside it stands the share of that peak which ours reaches. Alike says how many labels are the same, "
        "or how far other numbers differ, over the largest of them.",
        _busy(report.rows),
        f"Of {len(met) + len(missed)} rows with a target, {len(met)} reach it." + (" Not reached:" if missed else ""),
        "\n".join(_miss(row, report.machine) for row in missed),
        _unmeasured(report),
        f"![Ratios]({file.with_suffix('.png').name})",
        *sections,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _unmeasured(report: Report) -> str:
    """The works of the report's suites that it has no row for."""
    measured = {(row.suite, row.work, row.against) for row in report.rows}
    absent = [
        f"* {work.name}, against {work.peer}"
        for suite in dict.fromkeys(row.suite for row in report.rows)
        for work in SUITES[suite](report.quick)
        if (suite, work.name, work.peer) not in measured
    ]
    return "\n".join(["Not measured here:", "", *absent]) if absent else ""


def _busy(rows: Sequence[Row]) -> str:
    loads = [row.load for row in rows if row.load is not None]
    if not loads:
        return ""
    return (
        f"Meanwhile {min(loads):g} to {max(loads):g} processes kept the machine busy, the benchmark's own included; "
        "where they are more than its cores, times are longer and limits farther than at rest, for both sides."
    )


def _miss(row: Row, machine: Machine) -> str:
    """A target that is not reached, and what the machine would allow."""
    reached = f"{_number(row.ratio)}x" + (f", {_memory(row)} MB" if row.memory else "")
    most = f"the machine's peaks allow {_number(row.peer / row.limit(machine))}x"
    return f"* {row.work}, against {row.against}: {reached}, asked for {_target(row)}; {most}."


def _section(suite: str, rows: Sequence[Row], machine: Machine) -> str:
    """A table of the rows of a suite, with what its docstring says."""
    if not rows:
        return ""
    title, _, rest = (SUITES[suite].__doc__ or "").partition("\n\n")
    lines = [HEADINGS, ("---",) * 2 + ("---:",) * (len(HEADINGS) - 2), *(_cells(row, machine) for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    parts = [f"## {suite}", _paragraph(title), _paragraph(rest), table]
    return "\n\n".join(part for part in parts if part)


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _cells(row: Row, machine: Machine) -> tuple[str, ...]:
    limit = f"{_number(row.limit(machine))} ({_reached(row, machine)})"
    ratio = f"**{_ratio(row)}**" if row.met else _ratio(row)
    memory = _memory(row) if row.memory else ""
    times = (_number(row.ours) + (f" ({row.how})" if row.how else ""), _number(row.peer))
    return row.work, row.against, *times, ratio, _target(row), memory, limit, _alike(row)


def _ratio(row: Row) -> str:
    return f"{_number(row.ratio)}x ({_number(row.spread[0])} to {_number(row.spread[1])})"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    most = f", 1/{1 / row.target.memory:.0f} MB" if row.target.memory else ""
    most = f", {row.target.megabytes:g} MB" if row.target.megabytes else most
    least, aim = (f"{ratio:g}x" if ratio else "-" for ratio in (row.target.least, row.target.aim))
    return f"{least} / {aim}{most}"


def _memory(row: Row) -> str:
    return " / ".join(_number(side) for side in row.memory or ())


def _reached(row: Row, machine: Machine) -> str:
    return f"{100 * row.limit(machine) / row.ours:.2g} %"


def _alike(row: Row) -> str:
    told = [f"{100 * row.agreement:.7g} %"] if row.agreement is not None else []
    told += [f"{row.difference:.1e}"] if row.difference is not None else []
    return ", ".join(told)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"
