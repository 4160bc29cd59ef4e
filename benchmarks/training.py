"""A training step of ours against segmentation-models-pytorch with the same encoder, side by side.

    python benchmarks/training.py --repeats 7 --json training.json

The peer is its FPN (or --peer Unet) with a resnet18 encoder in its default form: float32, NCHW, logits at image size,
`F.cross_entropy`, AdamW. Ours is `fcn8s-resnet18` as `fullyconv train` runs it. Same images and batch, no data loading.
Both run in turn, A B A B; shown are medians, and the median and range of the ratio turn by turn. Memory is the
highest resident size during one step above the level before it (Linux only).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from kernels import peak_megabytes
from torch import Tensor

from fullyconv.models import create
from fullyconv.training.loop import Average, Objective
from fullyconv.training.recipes import RECIPES, optimizer_of, parameter_groups

CLASSES = 11


def our_step(image: Tensor, target: Tensor) -> Callable[[], None]:
    """One step of `fullyconv train`: forward, fused loss, backward, AdamW, moving average."""
    model = create("fcn8s-resnet18", CLASSES).to(memory_format=torch.channels_last)
    recipe = RECIPES["default"]
    objective = Objective(model, "cross_entropy", torch.ones(CLASSES), 255)
    optimizer = optimizer_of(recipe, parameter_groups(recipe, model))
    average = Average(model, recipe.ema)
    image, target = image.contiguous(memory_format=torch.channels_last), target[:, None]  # one mask, for one head

    def step() -> None:
        amount = objective.amount(target)
        (objective(image, target) / amount).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step=100)

    return step


def peer_step(image: Tensor, target: Tensor, name: str) -> Callable[[], None]:
    """One step as the peer's examples write it."""
    model = smp.create_model(name, encoder_name="resnet18", encoder_weights=None, classes=CLASSES).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    height, width = target.shape[1:]
    # The peer's FPN takes multiples of 32 only; padding is its own advice.
    padding = (0, -width % 32, 0, -height % 32)
    image, target = F.pad(image, padding), F.pad(target, padding, value=255)

    def step() -> None:
        F.cross_entropy(model(image), target, ignore_index=255).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], None]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default="FPN")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    image = torch.rand(options.batch, 3, *options.size)
    target = torch.randint(0, CLASSES, (options.batch, *options.size))
    memory, times = {}, {}
    steps = {"ours": our_step(image, target), "peer": peer_step(image, target, options.peer)}
    for who, step in steps.items():
        step()
        memory[who] = peak_megabytes(step)
        times[who] = []
    for _ in range(options.repeats):
        for who, step in steps.items():
            times[who].append(seconds(step))
    ratios = sorted(peer / ours for ours, peer in zip(times["ours"], times["peer"], strict=True))
    row = {
        "work": f"training step, batch {options.batch} of {options.size[0]}x{options.size[1]}, resnet18",
        "peer": f"segmentation-models-pytorch {options.peer}",
        "ours_images_per_second": options.batch / statistics.median(times["ours"]),
        "peer_images_per_second": options.batch / statistics.median(times["peer"]),
        "ratio": statistics.median(ratios),
        "spread": [ratios[0], ratios[-1]],
        "memory_megabytes": memory,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(row, indent=2))
    if options.json:
        options.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
