"""The paper's story on small data: a classifier is trained, converted and fine-tuned; the same net learns from scratch.

    python benchmarks/fine_tuning.py ../shared/data/tiny_imagenet ../shared/data/camvid --out runs/fine-tuning \
        --classifier-minutes 20 --seeds 3 -- --budget 10m

CLASSES holds `train/` with a folder of images for each class, as Tiny-ImageNet does. What follows `--` goes
to `fullyconv train` as it is, for both. Seeds and starts take turns. What is there already is not done again.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from repeat import row, train
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import v2

from fullyconv.images import read_image, to_float
from fullyconv.means import IMAGENET_MEAN, IMAGENET_STD
from fullyconv.models import classifier

SUFFIXES = {".jpeg", ".jpg", ".png"}
BATCH = 64
HELD_BACK = 10  # every tenth image of each class tells how good the classifier is


def pictures(folder: Path) -> tuple[Tensor, Tensor]:
    """All images below `folder/train`, uint8 `(n, 3, 64, 64)`, and the classes of the folders they are in."""
    images, values = [], []
    for value, each in enumerate(sorted(path for path in (folder / "train").iterdir() if path.is_dir())):
        files = sorted(path for path in each.rglob("*") if path.suffix.lower() in SUFFIXES)
        images += [read_image(file) for file in files]
        values += [value] * len(files)
    return torch.stack(images), torch.tensor(values)


def trained_classifier(name: str, folder: Path, minutes: float, file: Path) -> None:
    """Trains a classifier for a time and writes its weights; says how many held-back images it gets right."""
    images, values = pictures(folder)
    held = torch.arange(len(images)) % HELD_BACK == 0
    torch.manual_seed(0)
    network = classifier(name).network.to(memory_format=torch.channels_last)
    network.reset_classifier(int(values.max()) + 1)
    augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(64, (0.3, 1.0), antialias=True)])
    normalise = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    begun, steps = time.monotonic(), 0
    while (past := (time.monotonic() - begun) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, steps / 100) * (1 - past)
        chosen = torch.nonzero(~held).flatten()[torch.randint(int((~held).sum()), (BATCH,))]
        batch = torch.stack([augment(image) for image in images[chosen]])
        loss = F.cross_entropy(network.train()(normalise(to_float(batch))), values[chosen], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    right = correct(network, normalise(to_float(images[held])), values[held])
    print(f"{name}: {steps} steps, {right:.1%} of {int(held.sum())} held-back images are right", file=sys.stderr)
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, file)


@torch.no_grad()
def correct(network: nn.Module, images: Tensor, values: Tensor) -> float:
    """The share of images that get their own class."""
    return float((network.eval()(images).argmax(1) == values).float().mean())


def main() -> None:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classes", type=Path)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classifier", default="resnet10t")
    parser.add_argument("--classifier-minutes", type=float, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(words[:cut])
    options.out.mkdir(parents=True, exist_ok=True)
    weights = options.out / "classifier.safetensors"
    if not weights.exists():
        trained_classifier(options.classifier, options.classes, options.classifier_minutes, weights)
    model = ["--model", f"fcn8s-{options.classifier}"]
    starts = {"fine-tuned": [*model, "--pretrained", str(weights)], "from scratch": model}
    runs: dict[str, list[dict]] = {start: [] for start in starts}
    for seed in range(options.seeds):
        for start, extra in starts.items():
            run = options.out / f"{start.replace(' ', '-')}-seed{seed}"
            runs[start].append(train(options.data, run, [*words[cut + 1 :], *extra, "--seed", str(seed)]))
    print("| start | val mean IoU (range) | val pixel accuracy (range) | epochs | seeds |\n|---|---|---|---|---|")
    for start, results in runs.items():
        print(row(start, results))


if __name__ == "__main__":
    main()
