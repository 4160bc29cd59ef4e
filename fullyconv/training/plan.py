"""The plan of a run: every setting that decides what it computes, with what was found out about data and machine."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fullyconv import artefact, images, losses
from fullyconv.datasets import Dataset, Pair
from fullyconv.datasets.classes import evenly_spaced
from fullyconv.errors import FullyconvError
from fullyconv.means import IMAGENET_MEAN, IMAGENET_STD
from fullyconv.models import Alignment, Geometry, Upscoring
from fullyconv.models.foreign import is_foreign
from fullyconv.training.loading import Decoder, Samples
from fullyconv.training.recipes import (
    AUGMENTATIONS,
    LEAST_SMALL_CROP,
    PLAIN_CROPS,
    SMALL,
    Augment,
    Loss,
    Recipe,
    Reduction,
)
from fullyconv.transforms import Augmentation

DEFAULT_EPOCHS = 100
CROP_PIXELS = 288 * 384
FINER_TAPS = {"fcn32s": 0, "fcn16s": 1, "fcn8s": 2, "fcn4s": 3}  # than FCN-32s
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a run computes; kept as plan.json, and what `--resume` follows.

    `reduction` is the wanted one: until the data are seen, the recipe may hold the one that its rate is meant for.
    """

    data: str
    fingerprint: dict[str, Any]
    architecture: dict[str, Any]
    recipe: Recipe
    reduction: Reduction
    seed: int
    steps: int | None
    budget_seconds: float | None
    parts: int
    validations: int
    precision: Precision
    class_weights: tuple[float, ...] | None
    pretrained: str
    bands: tuple[int, ...]
    also: tuple[str, ...]
    val: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        """The plan that `to_json` gave."""
        recipe = dict(values["recipe"])
        if recipe["augmentation"]:
            given = recipe["augmentation"]
            tuples = {name: given[name] and tuple(given[name]) for name in ("crop", "scale")}
            recipe["augmentation"] = Augmentation(**{**given, **tuples})
        weights = values["class_weights"]
        lists = {"bands": tuple(values["bands"]), "also": tuple(values["also"])}
        return cls(
            **{**values, **lists, "recipe": Recipe(**recipe), "class_weights": tuple(weights) if weights else None}
        )


def recipe_of(
    base: Recipe,
    given: Mapping[str, Any],
    pairs: Sequence[Pair],
    bands: Sequence[int],
    *,
    augment: Augment | None,
    crop: tuple[int, int] | None,
) -> Recipe:
    """A recipe with the settings that are given in place of its own.

    Args:
        base: Such as `recipes.recipe_for` gives.
        given: Fields of `Recipe`; None keeps the recipe's.
        pairs: Training images; samples are cut in their proportions.
        bands: Of each picture of a scene; light falls on the image, which is the first of them.
        augment: How samples vary; None keeps the recipe's way.
        crop: Height and width of the samples; None finds them out where the augmentation cuts at all.

    Raises:
        FullyconvError: SEG-T012 if samples shall grow, but are whole images.
    """
    augmentation = base.augmentation if augment is None else AUGMENTATIONS[augment]
    if crop is not None:
        augmentation = replace(augmentation or PLAIN_CROPS, crop=crop)
    elif augmentation is not None and augmentation.crop is not None:
        augmentation = replace(augmentation, crop=crop_for(pairs))
    if augmentation is not None:
        augmentation = replace(augmentation, peak=_peak(pairs), lit=bands[0] if len(bands) > 1 else None)
    small = augmentation.shrunk(SMALL).crop if augmentation else None
    if small is None and given.get("growth"):
        raise FullyconvError(
            "SEG-T012",
            f"--growth {given['growth']:g} begins with smaller samples, but whole images are trained on here; cut "
            "samples with --crop, or leave --growth out",
        )
    if small is None or min(small) < LEAST_SMALL_CROP:
        base = replace(base, growth=0.0)
    return replace(base, augmentation=augmentation, **{key: value for key, value in given.items() if value is not None})


def reduction_of(loss: Loss, wanted: Reduction | None, usual: Reduction) -> Reduction:
    """How pixels share in the loss: as wanted, or as the recipe does. All but cross-entropy are means in any recipe.

    Raises:
        FullyconvError: SEG-T012 if one of those is wanted otherwise.
    """
    if loss == "cross_entropy":
        return wanted or usual
    if wanted not in ("mean", None):
        raise FullyconvError(
            "SEG-T012", f"--reduction {wanted} is for cross_entropy, and {loss} is a mean; leave --reduction out"
        )
    return "mean"


def refuse_scores_of_another_toolkit(name: str, options: Mapping[str, Any]) -> None:
    """Do nothing if those options of `train` leave the score channels of another toolkit's network alone.

    Raises:
        FullyconvError: SEG-T012 if they do not.
    """
    option = "--tune score" if options["tune"] == "score" else "--also" if options["also"] else None
    if option and is_foreign(name):
        raise FullyconvError(
            "SEG-T012",
            f"{option} needs score layers of their own, and {name} is another toolkit's network as a whole; leave it "
            "out, or name a network with --model, such as fcn8s-resnet18",
        )


def refuse_idle_tuning(options: Mapping[str, Any]) -> None:
    """Do nothing if the layers to be trained, of those options of `train`, can learn something.

    Raises:
        FullyconvError: SEG-T012 if the score layers alone are trained, and others should be or are random.
    """
    if options["tune"] == "all":
        return
    if options["upscore"] != "fixed":
        raise FullyconvError(
            "SEG-T012",
            f"--tune score trains the score layers alone, and no upsampling as --upscore {options['upscore']} would; "
            "leave one of the two out",
        )
    if isinstance(options["model"], str) and options["pretrained"] == "none":
        raise FullyconvError(
            "SEG-T012",
            "--tune score trains the score layers alone, and all others would stay random; start from trained weights "
            "with --pretrained hub or FILE",
        )


def refuse_rate_of_another_optimizer(base: Recipe, options: Mapping[str, Any]) -> None:
    """Do nothing if the learning rate, of those options of `train` or of their recipe, is for the optimiser.

    Raises:
        FullyconvError: SEG-T012 if it is not.
    """
    optimizer = options["optimizer"]
    if options["lr"] is None and optimizer not in (None, base.optimizer):
        raise FullyconvError(
            "SEG-T012",
            f"--recipe {options['recipe']} has a learning rate for {base.optimizer}, {base.learning_rate:g}, at which "
            f"--optimizer {optimizer} would learn nothing or too much; give its --lr as well",
        )


def refuse_rebuilding(options: Mapping[str, Any]) -> None:
    """Do nothing if those options of `train` do not ask for another build of a network that is there already.

    Raises:
        FullyconvError: SEG-T012 if they do.
    """
    fresh = {"pretrained": "none", "upscore": "fixed", "dropout": 0.0, "alignment": "grid", "geometry": "same"}
    asked = [name for name, default in {**fresh, "streams": None, "channels": None}.items() if options[name] != default]
    if isinstance(options["model"], str) or not asked:
        return
    raise FullyconvError(
        "SEG-T012",
        f"--{asked[0]} says how a network is built, and the given model is built and has its weights; leave it out, or "
        "name a network with --model, such as fcn8s-resnet18",
    )


def refuse_large(crop: tuple[int, int] | None, pairs: Sequence[Pair]) -> None:
    """Do nothing if samples are at most twice as high and wide as the largest images, or 32 pixels.

    Raises:
        FullyconvError: SEG-T013 if they would be padding for the most part.
    """
    if crop is None:
        return
    height, width = (max(sides) for sides in zip(*(images.image_size(pair.image) for pair in pairs), strict=True))
    if crop[0] > max(32, 2 * height) or crop[1] > max(32, 2 * width):
        raise FullyconvError(
            "SEG-T013",
            f"samples of --crop {crop[0]},{crop[1]} would be padding for the most part: the largest images are "
            f"{height} pixels high and {width} wide; use --crop {height},{width} or less",
        )


def stage_of(name: str, pretrained: str) -> int:
    """How many stages of training were before: 0 for a net that starts from a classifier, or is trained at once.

    FCN-16s comes after one, FCN-8s after two; and the late fusion of trained networks is a stage of its own, as in the
    authors' NYUDv2 solver files.

    Args:
        name: Of the model, such as `fcn8s-vgg16`.
        pretrained: What it starts from; a weight file without a config.json beside it is a classifier's.
    """
    if pretrained in ("none", "hub") or "-atonce-" in name:
        return 0
    files = weight_files(pretrained)
    begins_as_fcn = all(file.with_name(artefact.CONFIG).is_file() for file in files)
    return FINER_TAPS.get(name.partition("-")[0], 0) + (len(files) > 1) if begins_as_fcn else 0


def weight_files(pretrained: str) -> list[Path]:
    """The files that --pretrained names: one, or several with commas between."""
    names = [pretrained] if Path(pretrained).exists() else pretrained.split(",")
    return [artefact.weight_file(Path(name)) for name in names]


def crop_for(pairs: Sequence[Pair]) -> tuple[int, int]:
    """Height and width of samples: the images' median size, shrunk to the area of 288 x 384 pixels, in steps of 32."""
    sizes = torch.tensor([images.image_size(pair.image) for pair in evenly_spaced(pairs, 200)])
    height, width = sizes.median(dim=0).values.tolist()
    shrink = min(1.0, math.sqrt(CROP_PIXELS / (height * width)))
    return max(32, round(height * shrink / 32) * 32), max(32, round(width * shrink / 32) * 32)


def steps_of(epochs: float | None, steps: int | None, budget: str | None, size: int, batch: int) -> int | None:
    """The optimiser steps of a run of so many epochs or steps, or None where a budget of time decides.

    Raises:
        FullyconvError: SEG-T006 if more than one is given.
    """
    given = [name for name, value in (("epochs", epochs), ("steps", steps), ("budget", budget)) if value is not None]
    if len(given) > 1:
        raise FullyconvError("SEG-T006", f"--{' and --'.join(given)} each set the length of the run; give one of them")
    if budget is not None:
        return None
    return steps or max(1, round((DEFAULT_EPOCHS if epochs is None else epochs) * size / batch))


def seconds_of(budget: str) -> float:
    """The seconds that a text such as 90s, 30m or 2h stands for; a bare number counts minutes.

    Raises:
        FullyconvError: SEG-T006 for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", budget.strip())
    if not match or float(match[1]) <= 0:
        raise FullyconvError("SEG-T006", f"--budget must be a time such as 90s, 30m or 2h, got {budget!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "m"]


def bands_of(pairs: Sequence[Pair], channels: int | None) -> tuple[int, ...]:
    """The bands of each picture of a scene: of the image those asked for, of all others what is found in the files."""
    some = [pair.pictures for pair in evenly_spaced(pairs, 16)]
    image, *more = zip(*some, strict=True)
    return (channels or _bands(image), *map(_bands, more))


def architecture_of(
    name: str,
    dataset: Dataset,
    bands: Sequence[int],
    streams: Sequence[int] | None,
    upscore: Upscoring,
    dropout: float,
    alignment: Alignment,
    geometry: Geometry,
) -> dict[str, Any]:
    """The arguments of `models.create` for a dataset; the statistics of bands other than RGB are measured on it."""
    statistics = {} if bands == (3,) else _statistics(dataset.pairs("train"), bands)
    return {
        "name": name,
        "num_classes": sum(len(head.labels) for head in dataset.heads.values()),
        "channels": sum(bands),
        "streams": streams and list(streams),
        "upscore": upscore,
        "dropout": dropout,
        "alignment": alignment,
        "geometry": geometry,
        **statistics,
    }


def _peak(pairs: Sequence[Pair]) -> float:
    """The brightest value of up to 16 images of more than 8 bits, in [0, 1]; 1 for 8 bits."""
    samples = [images.read_image(pair.image, channels=None) for pair in evenly_spaced(pairs, 16)]
    wide = [float(image.max()) for image in samples if image.dtype != torch.uint8]
    return max(wide) if wide and max(wide) > 0 else 1.0


def _bands(pictures: Sequence[Path]) -> int:
    """The most that a picture has, without what its file says is alpha."""
    headers = [images.read_header(picture) for picture in pictures]
    return max(header.bands - header.alpha for header in headers)


def _statistics(pairs: Sequence[Pair], bands: Sequence[int]) -> dict[str, list[float]]:
    """Mean and standard deviation of each band over up to 64 images, in [0, 1]; of a scene's colours, ImageNet's."""
    values = torch.cat([some_pixels(pair, bands) for pair in evenly_spaced(pairs, 64)], dim=1)
    mean, std = values.mean(1).tolist(), values.std(1, correction=0).clamp(min=1e-3).tolist()
    if len(bands) > 1 and bands[0] == 3:
        mean[:3], std[:3] = IMAGENET_MEAN, IMAGENET_STD
    return {"mean": mean, "std": std}


def some_pixels(pair: Pair, bands: Sequence[int]) -> Float[Tensor, "bands pixels"]:
    """A scene's pixels in [0, 1]; of a large one every 17th, which tells enough, and of the others nothing is kept."""
    pixels = images.stack(pair.pictures, bands).flatten(1).unsqueeze(1)
    return images.to_float(pixels[..., ::17].clone() if pixels.shape[2] > 10_000 else pixels).squeeze(1)


def class_weights_of(decoder: Decoder, balance: Literal["log", "median"]) -> tuple[float, ...]:
    """Class weights of each head, one after the other, from up to 500 training masks, evenly spaced."""
    counts = [torch.zeros(len(labels), dtype=torch.int64) for _, labels in decoder.heads]
    for index in evenly_spaced(range(len(decoder.pairs)), 500):
        for mask, count in zip(decoder[index][1].flatten(1).long(), counts, strict=True):
            count += torch.bincount(mask[mask != decoder.ignore_index], minlength=len(count))
    return tuple(weight for count in counts for weight in losses.class_weights(count, balance).tolist())


def counted_pixels(samples: Samples, class_weights: Sequence[float] | None) -> float:
    """How many pixels count in a training image, each as much as its class, on average over an epoch and all heads."""
    decoder = samples.decoder
    sizes = [len(labels) for _, labels in decoder.heads]
    weights = torch.split(torch.tensor(class_weights or [1.0] * sum(sizes), dtype=torch.float64), sizes)
    total = 0.0
    for position in range(len(decoder.pairs)):
        sample = samples[position]
        if isinstance(sample, FullyconvError):
            raise sample
        for mask, weight in zip(sample.masks, weights, strict=True):
            total += float(weight[mask[mask != decoder.ignore_index].long()].sum())
    return total / (len(decoder.pairs) * len(sizes))


def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as --config takes them back: what was chosen, in YAML's own types."""
    plain = {name: _plain(value) for name, value in options.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Dataset | Path):
        return str(value)
    return value if isinstance(value, int | float | str) else None


def precision_of(wanted: Precision) -> Literal["fp32", "bf16"]:
    """The precision to compute in; `auto` is bf16 where the machine is faster in it."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _bf16_pays() else "fp32"


def _bf16_pays() -> bool:
    """Whether a convolution's forward and backward pass is faster under bf16 autocast on this CPU.

    Some have the instructions at half the rate of float32's. The two take turns, the best of five counts, and the
    seconds are the processor's, so that other work on the machine does not decide.
    """
    image = torch.randn(4, 128, 48, 64).contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(6):
        for low, times in seconds.items():
            begun = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                scores = conv(image)
            scores.backward(torch.ones_like(scores))
            times.append(time.process_time() - begun)
    return min(seconds[True][1:]) < 0.8 * min(seconds[False][1:])
