"""Time and memory of the kernels against `F.interpolate` and what follows it, side by side in one run.

    python benchmarks/kernels.py --threads 2 --json kernels.json

Both run in turn, A B A B, so that a busy machine slows both; each turn gives one ratio, and the table shows their
median and their range. Memory is the highest resident size during one call above the level before it (Linux only).
"""

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fullyconv import kernels

Size = tuple[int, int]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Row:
    """One line of the table: milliseconds, megabytes, and peer divided by ours."""

    work: str
    ours: float
    peer: float
    ratio: float
    spread: tuple[float, float]
    memory: tuple[float, float] | None


def smooth_scores(batch: int, classes: int, height: int, width: int) -> Tensor:
    """Blobs of 16 cells and a little noise: what a trained network's scores look like."""
    blobs = F.interpolate(3 * torch.randn(batch, classes, height // 16 + 2, width // 16 + 2), size=(height, width))
    blobs = F.avg_pool2d(F.pad(blobs, (4, 4, 4, 4), "replicate"), 9, stride=1)
    return blobs + 0.15 * torch.randn_like(blobs)


def our_step(scores: Tensor, target: Tensor) -> None:
    torch.autograd.grad(kernels.upsample_cross_entropy(scores, target), scores)


def peer_step(scores: Tensor, target: Tensor) -> None:
    logits = F.interpolate(scores, size=target.shape[1:], mode="bilinear")
    torch.autograd.grad(F.cross_entropy(logits, target, ignore_index=255), scores)


def peer_argmax(scores: Tensor, size: Size) -> Tensor:
    return F.interpolate(scores, size=size, mode="bilinear").argmax(1)


def peak_megabytes(work: Callable[[], object]) -> float | None:
    """How far the resident size rises above its level before the call; None where the system cannot tell."""
    if platform.system() != "Linux":
        return None
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def level(field: str) -> float:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)) / 1024

    ctypes.CDLL(None).malloc_trim(0)  # or the call would be served from what earlier ones have freed
    reset.write_text("5")
    before = level("VmRSS")
    work()
    return level("VmHWM") - before


def compare(
    work: str, ours: Callable[[], object], peer: Callable[[], object], repeats: int, clock: Callable[[], float]
) -> Row:
    for call in (ours, peer):
        call()  # compiles, and fills the caches
    memory = [peak_megabytes(call) for call in (ours, peer)]
    times = []
    for _ in range(repeats):
        start = clock()
        ours()
        middle = clock()
        peer()
        times.append((1e3 * (middle - start), 1e3 * (clock() - middle)))
    ratios = [theirs / mine for mine, theirs in times]
    mine, theirs = (statistics.median(turn[side] for turn in times) for side in (0, 1))
    known = (memory[0], memory[1]) if memory[0] is not None and memory[1] is not None else None
    return Row(work, mine, theirs, statistics.median(ratios), (min(ratios), max(ratios)), known)


def losses(compare_as: Callable[..., Row]) -> list[Row]:
    rows = []
    for classes, batch in ((11, 8), (21, 8), (150, 2)):
        scores = smooth_scores(batch, classes, 45, 60).requires_grad_()
        target = torch.randint(0, classes, (batch, 360, 480))
        name = f"cross-entropy and gradient, K={classes}, {batch}x360x480"
        rows.append(compare_as(name, partial(our_step, scores, target), partial(peer_step, scores, target)))
    return rows


def label_maps(compare_as: Callable[..., Row]) -> list[Row]:
    rows = []
    for classes in (21, 150):
        for height, width in ((63, 63), (128, 256)):
            size = (8 * height, 8 * width)
            for kind, make in (("smooth", smooth_scores), ("noise", torch.randn)):
                scores = make(1, classes, height, width)
                name = f"label map, K={classes}, {size[0]}x{size[1]}, {kind}"
                ours, peer = partial(kernels.upsample_argmax, scores, size), partial(peer_argmax, scores, size)
                rows.append(compare_as(name, ours, peer))
    return rows


def table(rows: list[Row]) -> str:
    lines = [f"{'work':48} {'ours ms':>8} {'peer ms':>8} {'ratio':>7} {'range':>13} {'MB':>13}"]
    for row in rows:
        memory = f"{row.memory[0]:.1f} / {row.memory[1]:.0f}" if row.memory else "-"
        spread = f"{row.spread[0]:.1f}-{row.spread[1]:.1f}"
        lines.append(f"{row.work:48} {row.ours:8.2f} {row.peer:8.1f} {row.ratio:6.1f}x {spread:>13} {memory:>13}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of both sides")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each pair")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    compare_as = partial(compare, repeats=options.repeats, clock=CLOCKS[options.clock])
    rows = [*losses(compare_as), *label_maps(compare_as)]
    print(table(rows))
    if options.json:
        machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
        machine |= {"torch": torch.__version__, "clock": options.clock}
        report = {"suite": "kernels", "rows": [asdict(row) for row in rows], "machine": machine}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
