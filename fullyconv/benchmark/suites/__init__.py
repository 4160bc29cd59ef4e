"""The suites: each a function that gives its works, on small sizes or real ones."""

from collections.abc import Callable

from fullyconv.benchmark.comparing import Work
from fullyconv.benchmark.suites import backbones, data, loss, metrics, tiles, train, upsample, vgg

SUITES: dict[str, Callable[[bool], list[Work]]] = {
    "upsample": upsample.works,
    "loss": loss.works,
    "fcn8s-vgg16": vgg.works,
    "backbones": backbones.works,
    "train": train.works,
    "tiles": tiles.works,
    "metrics": metrics.works,
    "data": data.works,
}
"""By name; the first line of a suite's docstring says what it measures."""
