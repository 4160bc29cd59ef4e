"""How long things take, measured in turns, and on which machine."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def interleaved(
    works: Mapping[str, Callable[[], object]], *, seconds: float, rounds: int = 20, least: int = 3, warm: bool = False
) -> dict[str, list[float]]:
    """The seconds that each work takes in each round. They take turns, so that a busy machine slows all alike.

    Args:
        works: Each runs once before the clock starts, unless they are warm.
        seconds: No round is begun after so long.
        rounds: At most so many.
        least: At least so many, however long they take.
        warm: Whether they have run before.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for work in () if warm else works.values():
        work()
    begun = time.monotonic()
    for number in range(rounds):
        if number >= least and time.monotonic() - begun > seconds:
            break
        for name, work in works.items():
            taken[name].append(seconds_of(work))
    return taken


def seconds_of(work: Callable[[], object]) -> float:
    """The seconds until a work is done, on the accelerator too."""
    _wait()
    begun = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    """Until the accelerator is done, if there is one: it works on while Python goes ahead."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    """What computes: processor, cores, threads, and PyTorch's version."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} used"
    return f"{device}, {cores}, PyTorch {torch.__version__}"


def load() -> float | None:
    """How many processes have kept the machine busy over the last minute; None where that is not known."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def processor() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
