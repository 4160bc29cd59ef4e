"""What this machine can do at best: the limit that every measurement is held against."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Literal

import torch
import torch.nn.functional as F

from fullyconv import timing

Precision = Literal["float32", "bfloat16", "int8"]

# On each peak, in turns of a millisecond or two, of which the best counts: so it is found on a busy day too. A product
# of 512 reaches what one of 2048 does (164 of 167 GF/s on one core).
SECONDS = 0.7
SIDE = 512
COPIED = 2**24  # bytes at a time, of an array that no cache holds


@dataclass(frozen=True)
class Machine:
    """What computes, and its measured peaks.

    Args:
        name: Processor, cores, threads and PyTorch's version.
        operations: Most operations a second by precision, a multiply-add being two: the better of a matrix product and
            a convolution.
        copied: Most bytes a second that a copy reads and writes, both counted.
    """

    name: str
    operations: Mapping[Precision, float]
    copied: float


@dataclass(frozen=True)
class Cost:
    """What a work cannot do without.

    Args:
        operations: A multiply-add is two.
        bytes: Read from memory or written to it.
        precision: Of the operations.
    """

    operations: float = 0.0
    bytes: float = 0.0
    precision: Precision = "float32"

    def milliseconds(self, machine: Machine) -> float:
        """The least time that the machine's peaks allow."""
        return 1000 * max(self.operations / machine.operations[self.precision], self.bytes / machine.copied)


def measured(quick: bool = False) -> Machine:
    """This machine, by its present number of threads.

    Args:
        quick: On arrays so small that the peaks are not reached.
    """
    side, seconds = (256, 0.0) if quick else (SIDE, SECONDS)
    operations: dict[Precision, float] = {
        "float32": max(_product(torch.float32, side, seconds), _convolution(torch.float32, side, seconds)),
        "bfloat16": max(_product(torch.bfloat16, side, seconds), _convolution(torch.bfloat16, side, seconds)),
        "int8": _product_int8(side, seconds),
    }
    return Machine(timing.machine(), operations, _copy(COPIED if quick else 16 * COPIED, seconds))


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """While this is entered, torch and our kernels compute on so many threads; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_of(one: Machine, other: Machine) -> Machine:
    """One machine, measured twice."""
    operations = {name: max(speed, other.operations[name]) for name, speed in one.operations.items()}
    return Machine(one.name, operations, max(one.copied, other.copied))


def _product(dtype: torch.dtype, side: int, seconds: float) -> float:
    matrix = torch.rand(side, side).to(dtype)
    return _best(partial(torch.mm, matrix, matrix), 2 * side**3, seconds)


def _product_int8(side: int, seconds: float) -> float:
    matrix = torch.randint(-128, 128, (side, side), dtype=torch.int8)
    return _best(partial(torch._int_mm, matrix, matrix), 2 * side**3, seconds)


def _copy(size: int, seconds: float) -> float:
    source = torch.zeros(size, dtype=torch.uint8)
    target = torch.zeros_like(source)
    parts = cycle(list(zip(torch.split(target, COPIED), torch.split(source, COPIED), strict=True)))

    def copy() -> None:
        one, other = next(parts)
        one.copy_(other)

    return _best(copy, 2 * COPIED, seconds)


def _convolution(dtype: torch.dtype, side: int, seconds: float) -> float:
    """3 x 3, on a quarter of the channels that a product has."""
    channels, cells = side // 4, 24
    image = torch.rand(1, channels, cells, cells).to(dtype, memory_format=torch.channels_last)
    weight = torch.rand(channels, channels, 3, 3).to(dtype, memory_format=torch.channels_last)
    return _best(partial(F.conv2d, image, weight, padding=1), 2 * 9 * channels**2 * cells**2, seconds)


def _best(work: Callable[[], object], amount: float, seconds: float) -> float:
    """The amount that the work does a second, at its fastest."""
    return amount / min(timing.interleaved({"work": work}, seconds=seconds, rounds=1000)["work"])
