"""Ours and a peer in turn: times, ratio, memory, likeness of the results, and the distance from the machine's limit."""

import ctypes
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fullyconv.benchmark.machine import Cost, Machine
from fullyconv.timing import interleaved, load

TURN_SECONDS = 0.05  # at least: what takes a millisecond is measured over many


@dataclass(frozen=True)
class Target:
    """What a work is to reach.

    Args:
        least: Peer's time over ours; 0 if it does not matter.
        aim: The same, at best.
        memory: Ours over the peer's, at most.
        megabytes: Ours, at most.
    """

    least: float = 0.0
    aim: float | None = None
    memory: float | None = None
    megabytes: float | None = None


@dataclass(frozen=True)
class Sides:
    """Two ways to the same end, ready to run.

    Args:
        ours: What users of this package run.
        peer: What users of the other one run.
        cost: What the work cannot do without.
        how: Which of our ways was taken, where there are several.
        close: Removes the files that they read.
    """

    ours: Callable[[], Any]
    peer: Callable[[], Any]
    cost: Cost
    how: str = ""
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Work:
    """One line of a suite.

    Args:
        name: What is done, and on how much.
        peer: Who else does it, and how.
        sides: Makes both; networks and images exist only while they are compared.
        alike: Whether both compute the same thing, so that the results may be compared.
        needs: Packages that must be installed.
        target: None if none was set.
        once: Whether it takes so long that a single cold call of each side is all.
    """

    name: str
    peer: str
    sides: Callable[[], Sides]
    alike: bool = True
    needs: tuple[str, ...] = ()
    target: Target | None = None
    once: bool = False


@dataclass(frozen=True)
class Row:
    """What came of a work.

    Args:
        suite: It belongs to.
        work: Its name.
        against: The peer.
        ours: Median milliseconds.
        peer: Median milliseconds.
        ratio: The median of the turns' ratios, peer over ours.
        spread: The least and the greatest of them.
        memory: Megabytes of ours and of the peer at the peak of a call, above the level before it; None where the
            system cannot tell.
        cost: What the work cannot do without.
        agreement: Share of whole numbers, such as labels, that are the same; None if the results hold none.
        difference: Largest difference of other numbers, over the largest number; None if the results hold none.
        target: What was to be reached.
        how: Which of our ways was taken, where there are several.
        load: How many processes kept the machine busy meanwhile, this one included; None where that is not known.
    """

    suite: str
    work: str
    against: str
    ours: float
    peer: float
    ratio: float
    spread: tuple[float, float]
    memory: tuple[float, float] | None
    cost: Cost = field(repr=False)
    agreement: float | None = None
    difference: float | None = None
    target: Target | None = None
    how: str = ""
    load: float | None = None

    def limit(self, machine: Machine) -> float:
        """Least milliseconds that the machine's peaks allow."""
        return self.cost.milliseconds(machine)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, its memory too; None without one."""
        if self.target is None:
            return None
        reached = [self.ratio >= self.target.least]
        if self.memory and self.target.memory:
            reached.append(self.memory[0] <= self.target.memory * self.memory[1])
        if self.memory and self.target.megabytes:
            reached.append(self.memory[0] <= self.target.megabytes)
        return all(reached)


def compare(suite: str, work: Work, repeats: int) -> Row:
    """Runs both sides of a work, A B A B, so that a busy machine slows both.

    Args:
        suite: The work belongs to.
        work: What is run.
        repeats: Turns; each gives one ratio.
    """
    sides = work.sides()
    try:
        alike = likeness(sides.ours(), sides.peer()) if work.alike else (None, None)
        turns = None if work.once else in_turns(sides.ours, sides.peer, repeats)
        (our_seconds, our_memory), (peer_seconds, peer_memory) = observed(sides.ours), observed(sides.peer)
    finally:
        sides.close()
    ours, peer = turns or ([our_seconds], [peer_seconds])
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
    return Row(
        suite,
        work.name,
        work.peer,
        1000 * statistics.median(ours),
        1000 * statistics.median(peer),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        None if our_memory is None or peer_memory is None else (our_memory, peer_memory),
        sides.cost,
        *alike,
        work.target,
        sides.how,
        load(),
    )


def in_turns(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of a call of each in each turn; what takes less than `TURN_SECONDS` is called several times in a turn."""
    works = {"ours": ours, "peer": peer}
    once = interleaved(works, seconds=0, least=1)
    calls = {name: math.ceil(TURN_SECONDS / seconds[0]) for name, seconds in once.items()}
    turns = {name: partial(_again, work, calls[name]) for name, work in works.items()}
    taken = interleaved(turns, seconds=math.inf, rounds=repeats, warm=True)
    mine, theirs = ([seconds / calls[name] for seconds in taken[name]] for name in works)
    return mine, theirs


def _again(work: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        work()


def observed(work: Callable[[], object]) -> tuple[float, float | None]:
    """Seconds of a call, and how many megabytes the resident size rises above its level before; None where the system
    cannot tell."""
    if platform.system() != "Linux":
        return _seconds(work), None
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def level(name: str) -> float:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name)) / 1024

    ctypes.CDLL(None).malloc_trim(0)  # or the call would be served from what earlier ones have freed
    reset.write_text("5")
    before = level("VmRSS")
    seconds = _seconds(work)
    return seconds, level("VmHWM") - before


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def likeness(ours: Any, peer: Any) -> tuple[float | None, float | None]:
    """`agreement` and `difference` of two results: tensors, or tuples of them."""
    pairs = list(zip(_tensors(ours), _tensors(peer), strict=True))
    counts = [(int((one == other).sum()), one.numel()) for one, other in pairs if not one.is_floating_point()]
    gaps = [float((one - other).abs().max() / other.abs().max()) for one, other in pairs if one.is_floating_point()]
    alike, every = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return alike / every if every else None, max(gaps, default=None)


def _tensors(result: Any) -> list[Tensor]:
    several = result if isinstance(result, tuple) else (result,)
    return [torch.as_tensor(each).detach() for each in several]
