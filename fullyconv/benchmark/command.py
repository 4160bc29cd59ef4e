"""The door: `fullyconv benchmark`."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from fullyconv import timing
from fullyconv.arguments import Count, bounded, nearest
from fullyconv.benchmark.comparing import Work, compare
from fullyconv.benchmark.machine import measured, on_threads
from fullyconv.benchmark.report import Report, Skipped, read
from fullyconv.benchmark.suites import SUITES
from fullyconv.errors import FullyconvError
from fullyconv.writing import refuse_unwritable

ALL = "all"


@dataclass(frozen=True)
class Listing:
    """The suites that there are."""

    def to_json(self) -> dict[str, Any]:
        return {"suites": [{"name": name, "title": _title(name)} for name in SUITES]}

    def __str__(self) -> str:
        wide = max(map(len, SUITES))
        rows = [f"{name:<{wide}}  {_title(name)}" for name in SUITES]
        return "\n".join([*rows, "", "Run one by its name, or all of them: fullyconv benchmark upsample"])


@bounded
def benchmark(
    suite: str | None = None,
    *,
    only: Annotated[str, "TEXT"] | None = None,
    repeats: Count = 5,
    threads: Count | None = None,
    quick: bool = False,
    out: Path | None = None,
) -> Report | Listing:
    """Measure against the peers that are installed, side by side, and against what the machine allows.

    Args:
        suite: Of works to measure, or all; without a name they are listed.
        only: Works whose name or peer contains this.
        repeats: Turns of ours and the peer's; each gives one ratio.
        threads: Of both sides; as many as torch uses if left out.
        quick: Small sizes, to see that everything runs; their times say little.
        out: Write the JSON here, and a page (.md) and a chart (.png) beside it. Rows that stand there already and are
            not measured now stay.

    Raises:
        FullyconvError: SEG-B001 for what is in no suite, SEG-B002 for a file that cannot take the rows.

    Example:
        fullyconv benchmark upsample --out speed.json
    """
    if suite is None:
        return Listing()
    chosen = _chosen(suite, only, quick)
    with on_threads(threads):
        earlier = _earlier(out, quick)
        for report in _measured(suite, chosen, repeats, quick):
            if out is not None:  # what was measured stays if the rest is stopped
                (report.joined(earlier) if earlier else report).write(out)
    return report


def _title(suite: str) -> str:
    return (SUITES[suite].__doc__ or "").partition("\n")[0]


def _works(suite: str, quick: bool) -> list[Work]:
    """The works of a suite; small sizes have no targets."""
    works = SUITES[suite](quick)
    return [replace(work, target=None) for work in works] if quick else works


def _chosen(suite: str, only: str | None, quick: bool) -> dict[str, list[Work]]:
    """The works to measure, by suite."""
    if suite not in (*SUITES, ALL):
        hint = nearest(suite, (*SUITES, ALL)) or f"; there are {', '.join(SUITES)}, and all"
        raise FullyconvError("SEG-B001", f"there is no suite {suite}{hint}")
    works = {name: _works(name, quick) for name in (SUITES if suite == ALL else [suite])}
    chosen = {
        name: [work for work in some if (only or "") in f"{work.name}\n{work.peer}"] for name, some in works.items()
    }
    if not any(chosen.values()):
        names = dict.fromkeys(work.name for some in works.values() for work in some)
        raise FullyconvError("SEG-B001", f"no work of {suite} is called {only!r}; there are: {'; '.join(names)}")
    return chosen


def _earlier(out: Path | None, quick: bool) -> Report | None:
    """What the file holds already.

    Raises:
        FullyconvError: SEG-B002 if that is of another machine or of other sizes, or something else.
    """
    if out is not None and out.suffix != ".json":
        raise FullyconvError("SEG-B002", f"--out must end in .json, got {out}; the page and the chart stand beside it")
    if out is None:
        return None
    refuse_unwritable(out)
    if not out.exists():
        return None
    earlier = read(out)
    if earlier.machine.name != timing.machine():
        raise FullyconvError(
            "SEG-B002",
            f"{out} was measured on {earlier.machine.name}, this is {timing.machine()}; name another file with --out",
        )
    if earlier.quick != quick:
        sizes = "the small sizes of --quick" if earlier.quick else "full sizes, not those of --quick"
        raise FullyconvError("SEG-B002", f"{out} holds {sizes}; name another file with --out")
    return earlier


def _measured(suite: str, chosen: dict[str, list[Work]], repeats: int, quick: bool) -> Iterator[Report]:
    """The report as it grows, work by work; on a terminal each is announced before it is measured."""
    report = Report(suite, (), measured(quick), quick=quick)
    for name, works in chosen.items():
        for work in works:
            missing = _missing(work.needs)
            if missing:
                skipped = Skipped(name, work.name, work.peer, missing)
                report = replace(report, skipped=(*report.skipped, skipped))
            else:
                if sys.stderr.isatty():
                    print(f"{name}: {work.name}, against {work.peer}", file=sys.stderr)
                report = replace(report, rows=(*report.rows, compare(name, work, repeats)))
            yield report


def _missing(packages: Sequence[str]) -> tuple[str, ...]:
    return tuple(package for package in packages if find_spec(package) is None)
