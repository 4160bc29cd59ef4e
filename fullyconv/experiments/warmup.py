"""A classifier to start from, where there is no pretrained one: it learns what the middle of a crop shows."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fullyconv import images
from fullyconv.artefact import write_tensors
from fullyconv.datasets import Dataset
from fullyconv.errors import FullyconvError
from fullyconv.experiments.workbench import Workbench
from fullyconv.models import FCN, create
from fullyconv.training.plan import bands_of

SHARE = 0.15  # of the time limit
BATCH = 32
TEST_CROPS = 256
LEAST_CROP, MOST_CROP = 64, 128
GREY = 128
KEPT_IMAGES = 400  # decoded; more would not be seen often enough to matter


def start_of(bench: Workbench, dataset: Dataset, *, frozen: bool = False) -> tuple[str, str]:
    """What the nets of an experiment start from, for `train(pretrained=...)`, and in words.

    Args:
        bench: Its settings name a start, or `crops`: a classifier of crops of the same data, trained here and now.
        dataset: The crops' images and masks.
        frozen: Whether one of the nets keeps its trunk as it starts, which then must have learnt something.

    Raises:
        FullyconvError: SEG-R002 if such a trunk would stay random.
    """
    if frozen and bench.settings.pretrained == "none":
        raise FullyconvError(
            "SEG-R002",
            f"{bench.settings.name} trains the output layer alone too, on a trunk that must have learnt something; "
            "give --pretrained crops, hub or FILE, not none",
        )
    start = bench.settings.pretrained
    if start != "crops":
        return start, words_of(start)
    file = bench.folder / "classifier.safetensors"
    told = bench.part("classifier", train_classifier, bench, dataset, file)
    return str(file), (
        f"a classifier of {told['crop']} x {told['crop']} crops of the same data, trained for {_steps(told['steps'])} "
        f"on what their middle shows; {100 * told['accuracy']:.0f} % of {len(dataset.labels)} equally frequent classes "
        "right on unseen images"
    )


def words_of(start: str) -> str:
    """What nets start from, for the reader."""
    return {"none": "at random", "hub": "timm's weights"}.get(start, start)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def train_classifier(bench: Workbench, dataset: Dataset, file: Path) -> dict[str, float]:
    """Trains the trunk as a classifier of crops for a share of the time, and writes its weights as `trunk.*`.

    Returns:
        Side of the crops, steps, and accuracy on crops of val.
    """
    bench.say("training a classifier of crops to start from")
    torch.manual_seed(bench.settings.seed)
    bands = bands_of(dataset.pairs("train"), None)[0]
    net = create(f"fcn32s-{bench.settings.trunk}", len(dataset.labels), channels=bands)
    (score_layer,) = net.score_layers.values()
    head = nn.Linear(score_layer.in_channels, len(dataset.labels))  # type: ignore[arg-type]
    crops = Crops(dataset, "train", bench.settings.seed, bands=bands)
    steps = _fit(net, head, crops, SHARE * 60 * bench.settings.minutes)
    accuracy = _accuracy(net, head, Crops(dataset, "val", bench.settings.seed, bands=bands, side=crops.side))
    write_tensors(file, {f"trunk.{name}": tensor.contiguous() for name, tensor in net.trunk.state_dict().items()})
    bench.say(f"{accuracy:.0%} of unseen crops are right after {_steps(steps)}")
    return {"crop": crops.side, "steps": steps, "accuracy": accuracy}


class Crops:
    """Square pieces of images, each with the class of its middle pixel; classes are equally frequent.

    Args:
        dataset: Its images and masks.
        split: Which of them.
        seed: Of all that is drawn.
        bands: Of the images.
        side: Of a crop in pixels; half the images' shorter side if left out, a multiple of 32.
    """

    def __init__(self, dataset: Dataset, split: str, seed: int, *, bands: int = 3, side: int | None = None) -> None:
        self.random = np.random.default_rng((seed, split == "val"))
        pairs = dataset.pairs(split)[:: -(-len(dataset.pairs(split)) // KEPT_IMAGES)]
        pictures = [images.read_image(pair.image, channels=bands) for pair in pairs]
        shorter = min(min(picture.shape[1:]) for picture in pictures)
        self.side = side or min(max(shorter // 64 * 32, LEAST_CROP), MOST_CROP)
        self.padded = [_padded(picture, self.side // 2) for picture in pictures]
        self.masks = [images.read_mask(pair.mask, dataset.labels) for pair in pairs if pair.mask is not None]
        self.where = _where(self.masks, dataset.labels.ignore_index)

    def draw(self, count: int) -> tuple[Float[Tensor, "n bands side side"], Int64[Tensor, " n"]]:
        """Images in [0, 1], grey beyond the picture's border, and class indices."""
        classes = [int(value) for value in self.random.choice(list(self.where), count)]
        return torch.stack([self._crop(value) for value in classes]), torch.tensor(classes)

    def _crop(self, value: int) -> Tensor:
        index = int(self.random.choice(self.where[value]))
        rows, columns = torch.nonzero(self.masks[index] == value, as_tuple=True)
        place = int(self.random.integers(len(rows)))
        top, left = int(rows[place]), int(columns[place])  # of the crop in the picture padded by half a side
        return images.to_float(self.padded[index][:, top : top + self.side, left : left + self.side])


def _padded(picture: Tensor, margin: int) -> Tensor:
    """A picture of bytes, or of floats in [0, 1], with grey on all sides."""
    grey = GREY if picture.dtype == torch.uint8 else GREY / 255
    return F.pad(picture, (margin,) * 4, value=grey)


def _where(masks: Sequence[Tensor], ignore_index: int) -> dict[int, list[int]]:
    """The masks that each class occurs in."""
    where: dict[int, list[int]] = {}
    for index, mask in enumerate(masks):
        for value in np.unique(mask).tolist():
            if value != ignore_index:
                where.setdefault(value, []).append(index)
    return where


def _fit(net: FCN, head: nn.Linear, crops: Crops, seconds: float) -> int:
    """Trains trunk and head with AdamW, the learning rate falling to zero over the time, changing both; gives steps."""
    parameters = [*net.trunk.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05)
    net.train()
    begun, steps = time.monotonic(), 0
    while steps == 0 or time.monotonic() - begun < seconds:
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, 1.001 - (time.monotonic() - begun) / seconds)
        picture, value = crops.draw(BATCH)
        optimizer.zero_grad()
        F.cross_entropy(_logits(net, head, picture), value).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        steps += 1
    return steps


@torch.no_grad()
def _accuracy(net: FCN, head: nn.Linear, crops: Crops) -> float:
    net.eval()
    picture, value = crops.draw(TEST_CROPS)
    return float((_logits(net, head, picture).argmax(1) == value).float().mean())


def _logits(net: FCN, head: nn.Linear, picture: Tensor) -> Tensor:
    features = net.trunk((picture - net.mean) / net.std)[-1]
    return head(features.mean((2, 3)))  # type: ignore[no-any-return]
