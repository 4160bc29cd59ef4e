"""The authors' means, by their own numbers and their own way of preparing an image."""

import numpy as np
import pytest
import torch
from caffe_files import BGR_MEANS, HHA_MEAN

from fullyconv import means
from fullyconv.datasets import LAYOUTS
from fullyconv.models import create

PIXELS = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3) * 10


def seen(layout: str, *, hha: bool = False) -> np.ndarray:
    """What the first layer of a net with the authors' statistics sees of PIXELS, `(3, H, W)`."""
    net = create("fcn32s-test_resnet", 2, **means.statistics(layout, hha=hha))
    image = torch.from_numpy(PIXELS).permute(2, 0, 1)[None] / 255
    return ((image - net.mean) / net.std)[0].numpy()


@pytest.mark.parametrize(("layout", "mean"), [*BGR_MEANS.items(), ("sbd", BGR_MEANS["voc"])])
def test_colors_are_prepared_as_by_the_authors(layout: str, mean: tuple[float, ...]) -> None:
    # infer.py: float32 of 0 to 255, blue first, minus the mean, channels first.
    theirs = (PIXELS.astype(np.float32)[:, :, ::-1] - np.array(mean)).transpose(2, 0, 1)
    assert np.abs(seen(layout)[::-1] - theirs).max() < 1e-4


def test_hha_keeps_the_order_of_its_files() -> None:
    theirs = (PIXELS.astype(np.float32) - np.array(HHA_MEAN)).transpose(2, 0, 1)
    assert np.abs(seen("nyud", hha=True) - theirs).max() < 1e-4


def test_means_are_named_after_layouts() -> None:
    assert set(means.BGR_MEANS) == {*BGR_MEANS, "sbd"}
    assert set(means.BGR_MEANS) <= set(LAYOUTS)
