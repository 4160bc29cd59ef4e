"""How far a long work has come, for people who wait for it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int, verb: str) -> Iterator[Callable[..., None]]:
    """A bar with the time left, on a terminal only; gives what advances it, by one step or so many."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(verb, total=total)
        yield lambda steps=1: bar.advance(task, steps)
