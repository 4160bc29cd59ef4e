"""The paper in a minute: a digit classifier becomes a segmenter, which then learns finer and finer detail."""

import base64
import html
import json
import shutil
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from fullyconv import converting, drawing, metrics
from fullyconv.arguments import Within, bounded
from fullyconv.datasets import digits
from fullyconv.errors import FullyconvError
from fullyconv.kernels import upsample, upsample_cross_entropy
from fullyconv.models import FCN
from fullyconv.prediction import Segmenter
from fullyconv.surgery import transplant

CHANNELS = (8, 16, 32, 64, 96)
HIDDEN = 128
MEAN, STD = (0.2, 0.2, 0.2), (0.2, 0.2, 0.2)
STRIDES: tuple[converting.Stride, ...] = (32, 16, 8)
SCORES = {
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "mean_iou": "mean IU",
    "frequency_weighted_iou": "f.w. IU",
}


@dataclass(frozen=True)
class Effort:
    """How much is trained and tested.

    Args:
        crops: Pictures of one digit that the classifier is trained on.
        classifier_steps: Its steps, each on 64 of them.
        canvases: Pictures of several digits that the nets are trained on.
        net_steps: Steps of each net, each on 8 of them.
        test_crops: Crops that the classifier's accuracy is measured on.
        test_canvases: Canvases that the nets' scores are measured on.
    """

    crops: int = 6000
    classifier_steps: int = 450
    canvases: int = 600
    net_steps: int = 200
    test_crops: int = 1000
    test_canvases: int = 100


@dataclass(frozen=True)
class Quickstart:
    """What the quickstart found.

    Args:
        classifier_accuracy: On unseen crops, in [0, 1].
        difference: Largest difference between the logits of the classifier and of its converted form.
        nets: Name and the paper's four scores of each net, in [0, 1].
        seconds: All of it.
        out: Folder with the pictures and `report.html`.
    """

    classifier_accuracy: float
    difference: float
    nets: tuple[dict[str, Any], ...]
    seconds: float
    out: Path

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "nets": list(self.nets), "out": str(self.out)}

    def __str__(self) -> str:
        rows = [f"{net['name']:<8}" + "".join(f"{100 * net[score]:12.1f}" for score in SCORES) for net in self.nets]
        return "\n".join(
            [
                f"Classifier: {self.classifier_accuracy:.1%} of unseen digits. Converted, it gives the same logits: "
                f"max |difference| {self.difference:.1e}.",
                "",
                f"{'percent':<8}" + "".join(f"{title:>12}" for title in SCORES.values()),
                *rows,
                *self._doubts(),
                "",
                f"{self.seconds:.0f} s. Pictures and report: {self.out / 'report.html'}",
            ]
        )

    def _doubts(self) -> list[str]:
        """A sentence for each finer net that does not score above the one that it started from."""
        return [
            f"{fine['name']} does not score above {coarse['name']}, as it should: in so few steps much is left to "
            "chance; try another --seed."
            for coarse, fine in zip(self.nets, self.nets[1:], strict=False)
            if fine["mean_iou"] <= coarse["mean_iou"]
        ]


class DigitClassifier(nn.Sequential):
    """A classifier of normalised 64 x 64 pictures: five blocks that halve the map, then two fully connected layers."""

    default_cfg = {"input_size": (3, 64, 64), "mean": MEAN, "std": STD}  # noqa: RUF012 - as timm's networks have it

    def __init__(self) -> None:
        pairs = zip((3, *CHANNELS), CHANNELS, strict=False)
        layers = {
            "blocks": nn.Sequential(*(_block(*pair) for pair in pairs)),
            "flatten": nn.Flatten(),
            "hidden": nn.Linear(CHANNELS[-1] * 4, HIDDEN),
            "relu": nn.ReLU(),
            "score": nn.Linear(HIDDEN, len(digits.LABELS)),
        }
        super().__init__(OrderedDict(layers))


def _block(channels: int, wider: int) -> nn.Sequential:
    # The pool stands before the normalisation, which then has a quarter of the values to go through.
    conv = nn.Conv2d(channels, wider, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.MaxPool2d(2), nn.BatchNorm2d(wider), nn.ReLU(inplace=True))


@bounded
def quickstart(*, out: Path = Path("quickstart"), seed: Annotated[int, Within(least=0)] = 0) -> Quickstart:
    """Turn a digit classifier into FCN-32s, 16s and 8s, and draw what they see; takes a minute or two.

    Needs neither data nor a network connection: the digits come with scikit-learn.

    Args:
        out: Folder for the pictures and report.html; it must not exist yet.
        seed: Of everything that chance decides.

    Example:
        fullyconv quickstart --out quickstart
    """
    return run(out, seed, Effort())


def run(out: Path, seed: int, effort: Effort) -> Quickstart:
    """The quickstart with another effort; `out` appears only when everything is done."""
    begun = time.monotonic()
    if out.exists():
        raise FullyconvError("SEG-U008", f"{out} exists already; move it away or name another folder with --out")
    digits.handwriting("train")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        with _one_thread():
            result = _experiment(unfinished, out, seed, effort, begun)
        unfinished.chmod(0o755)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small nets gain little from a second thread, and lose tenfold by it where other programs share the two cores.

    Measured at load 5: 40 steps of the classifier took 5 s with one thread, 53 s with two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _experiment(folder: Path, out: Path, seed: int, effort: Effort, begun: float) -> Quickstart:
    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:4.0f} s] {text}", file=sys.stderr, flush=True)

    torch.manual_seed(seed)
    say("training a classifier of handwritten digits")
    classifier = DigitClassifier()
    _fit(
        classifier,
        lambda image, value: F.cross_entropy(classifier(_normalised(image)), value),
        _crops("train", effort.crops, seed),
        batch=64,
        steps=effort.classifier_steps,
        learning_rate=6e-3,
    )
    images, values = _crops("test", effort.test_crops, seed)
    accuracy = _accuracy(classifier, images, values)
    say(f"{accuracy:.1%} of unseen digits are right")

    net = convert(classifier)
    difference = largest_difference(classifier, net, images)
    say(f"its fully connected layers are convolutions now: logits differ by {difference:.1e} at most")
    _draw_heat(net, seed).save(folder / "heat_map.png")

    samples = _canvases("train", effort.canvases, seed)
    test = [digits.canvas("test", position, seed=seed) for position in range(effort.test_canvases)]
    nets, panels = [], []
    for stride in STRIDES:
        net = net if stride == STRIDES[0] else refine(net, classifier, stride)
        _fit(net, _loss_of(net), samples, batch=8, steps=effort.net_steps, learning_rate=3e-3)
        segmenter = Segmenter(net, digits.LABELS)
        nets.append({"name": f"FCN-{stride}s", **_scores(segmenter, test)})
        panels.append((f"FCN-{stride}s", [segmenter(image).mask for image, _ in test[:3]]))
        say(f"FCN-{stride}s: mean IU {nets[-1]['mean_iou']:.1%}")
    panels.append(("truth", [mask for _, mask in test[:3]]))
    _draw_predictions([image for image, _ in test[:3]], panels).save(folder / "predictions.png")

    result = Quickstart(accuracy, difference, tuple(nets), round(time.monotonic() - begun, 1), out)
    (folder / "report.json").write_text(json.dumps(result.to_json(), indent=2) + "\n")
    (folder / "report.html").write_text(_page(result, folder))
    return result


def convert(classifier: DigitClassifier) -> FCN:
    """The classifier as a fully convolutional network of stride 32, scored by its own last layer."""
    classes = {name: [index] for index, name in enumerate(digits.LABELS.names)}
    return converting.convert(classifier, classes=classes, stride=32).model


def refine(net: FCN, classifier: DigitClassifier, stride: converting.Stride) -> FCN:
    """The network with finer taps, whose score layers start at zero, so that nothing is unlearnt.

    Source: Long, Shelhamer and Darrell 2015, section 4.2.
    """
    finer = converting.convert(classifier, classes=digits.LABELS.names, stride=stride).model
    transplant(finer, net.state_dict())
    return finer


# Training ------------------------------------------------------------------------------------------------------------


def _fit(
    model: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    samples: tuple[Tensor, Tensor],
    *,
    batch: int,
    steps: int,
    learning_rate: float,
) -> None:
    """Trains with AdamW on a one-cycle schedule, changing the model.

    Args:
        model: Gets the gradients.
        loss_of: The mean loss of a batch of images and targets.
        samples: All images and targets; every step takes `batch` of them.
        batch: Samples per step.
        steps: Length of the training.
        learning_rate: At the top of the schedule.
    """
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    images, targets = samples
    passes = -(-steps * batch // len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(passes)])
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        optimizer.zero_grad()
        loss_of(images[chosen], targets[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.eval()


def _crops(split: digits.Split, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images `(count, 3, 64, 64)` and class indices `(count,)`."""
    pairs = [digits.crop(split, position, seed=seed) for position in range(count)]
    return _batch([image for image, _ in pairs]), torch.tensor([value for _, value in pairs])


def _canvases(split: digits.Split, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images `(count, 3, H, W)` and masks `(count, H, W)`."""
    pairs = [digits.canvas(split, position, seed=seed) for position in range(count)]
    return _batch([image for image, _ in pairs]), torch.from_numpy(np.stack([mask for _, mask in pairs])).long()


def _batch(images: Sequence[np.ndarray[Any, Any]]) -> Float[Tensor, "n 3 height width"]:
    """Images `(H, W, 3)` uint8 as one batch in [0, 1]; its memory stays channels-last."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _normalised(images: Tensor) -> Tensor:
    """The images as the classifier takes them; the network does this itself."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


# Testing -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def largest_difference(classifier: DigitClassifier, net: FCN, images: Float[Tensor, "n 3 64 64"]) -> float:
    """The largest difference between any logit of the classifier and of its converted form, at the native size."""
    return float((net.eval().scores(images)[:, :, 1, 1] - classifier.eval()(_normalised(images))).abs().max())


@torch.no_grad()
def _accuracy(classifier: DigitClassifier, images: Tensor, values: Tensor) -> float:
    """Share of the crops with a digit whose class is found."""
    right = classifier(_normalised(images)).argmax(1) == values
    return float(right[values > 0].float().mean())


def _loss_of(net: FCN) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda image, mask: upsample_cross_entropy(net.scores(image), mask, grid=net.grid)


def _scores(segmenter: Segmenter, pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    confusion = torch.zeros(len(digits.LABELS), len(digits.LABELS), dtype=torch.int64)
    for image, mask in pairs:
        pred = segmenter(image).mask
        confusion += metrics.confusion_matrix(torch.from_numpy(mask), torch.from_numpy(pred), len(digits.LABELS))
    return metrics.scores(confusion)


# Pictures ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _draw_heat(net: FCN, seed: int) -> Image.Image:
    """A large canvas, and where the converted classifier sees any digit, and the two most frequent ones."""
    size = (320, 416)
    image, mask = digits.canvas("test", 0, seed=seed + 1, size=size, digits=20)
    chances = upsample(net.scores(_batch([image])).softmax(1), size, grid=net.grid)[0]
    frequent = np.bincount(mask.ravel())[1:].argsort()[::-1][:2] + 1
    heat = [("any digit", 1 - chances[0]), *((digits.LABELS.names[value], chances[value]) for value in frequent)]
    maps = [(title, drawing.heat_map(chance.numpy(), low=0, high=1)) for title, chance in heat]
    return drawing.side_by_side([("canvas", Image.fromarray(image)), *maps], columns=2)


def _draw_predictions(
    images: Sequence[np.ndarray[Any, Any]], panels: Sequence[tuple[str, Sequence[np.ndarray[Any, Any]]]]
) -> Image.Image:
    rows: list[tuple[str, Image.Image]] = []
    for index, image in enumerate(images):
        rows.append(("image", Image.fromarray(image)))
        rows += [(name, drawing.colorize(masks[index], digits.LABELS)) for name, masks in panels]
    present = np.arange(len(digits.LABELS), dtype=np.uint8)[None]
    return drawing.with_legend(drawing.side_by_side(rows, columns=len(panels) + 1), present, digits.LABELS)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>fullyconv quickstart</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
img {{ max-width: 100%; }}
td, th {{ padding: .2rem 1rem; text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
</style>
<h1>From a classifier to a segmenter</h1>
<p>A classifier of 64 x 64 pictures was trained on handwritten digits: {accuracy} of unseen digits are right.
With its fully connected layers turned into convolutions it slides over images of any size. At its native size
the logits differ by {difference} at most.</p>
<h2>Where it sees what, before any training on masks</h2>
<img alt="Heat maps of the converted classifier" src="{heat}">
<h2>FCN-32s, FCN-16s, FCN-8s</h2>
<p>Trained one after the other on canvases with masks; each adds a finer map of the same trunk.
Percent, on unseen digits:</p>
<table><tr><th></th>{titles}</tr>{rows}</table>
<img alt="Predictions beside the truth" src="{predictions}">
</html>
"""


def _page(result: Quickstart, folder: Path) -> str:
    """The report as one file, pictures inside."""
    cells = [[html.escape(net["name"]), *(f"{100 * net[score]:.1f}" for score in SCORES)] for net in result.nets]
    return PAGE.format(
        accuracy=f"{result.classifier_accuracy:.1%}",
        difference=f"{result.difference:.1e}",
        heat=_inlined(folder / "heat_map.png"),
        predictions=_inlined(folder / "predictions.png"),
        titles="".join(f"<th>{title}</th>" for title in SCORES.values()),
        rows="".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells),
    )


def _inlined(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
