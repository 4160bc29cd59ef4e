"""Handwritten digits scattered on cluttered canvases: data for a first run, made on the fly, the same on every machine.

Every canvas is a pure function of split, seed and position. Digits of the test split were never seen in training.

Source: the digits that scikit-learn carries, 1797 of 8 x 8 cells (Alpaydin and Kaynak 1998, UCI repository).
"""

import functools
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

Split = Literal["train", "test"]
Array = np.ndarray[Any, Any]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLORS = (  # matplotlib's tab10, which stays readable over a dark ground
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
LABELS = LabelSet(("background", *DIGITS), ((0, 0, 0), *COLORS))

TRAIN_DIGITS = 1300  # of 1797 in the order of the file, which is an order of writers: test digits are by other hands
CROP = 64
SMALLEST, LARGEST = 40, 60  # side of the square in pixels; the digit itself is 8/10 of it
MASK_INK = 0.25  # of ink blurred by a twentieth of the side, so that a digit's mask is a little bolder than its stroke


@functools.cache
def handwriting(split: Split) -> tuple[Array, Array]:
    """The digits of a split: ink `(n, 8, 8)` uint8, and their values 0 to 9 `(n,)`.

    Raises:
        FullyconvError: SEG-U009 if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FullyconvError(
            "SEG-U009", "the handwritten digits come with scikit-learn; install it: pip install 'fullyconv[quickstart]'"
        ) from error
    ink, values = load_digits(return_X_y=True)
    part = slice(None, TRAIN_DIGITS) if split == "train" else slice(TRAIN_DIGITS, None)
    return (ink[part].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), values[part].astype(np.int64)


def canvas(
    split: Split, position: int, *, seed: int = 0, size: tuple[int, int] = (128, 160), digits: int = 12
) -> tuple[Array, Array]:
    """A picture with digits that do not touch, and its mask.

    Args:
        split: Whose handwriting.
        position: Which canvas; any number from 0 up.
        seed: Another seed gives other canvases.
        size: Height and width in pixels, each at least 60.
        digits: At most so many; those that find no room are left out.

    Returns:
        Image `(H, W, 3)` uint8, and mask `(H, W)` uint8: 0 background, else the digit's value plus 1.
    """
    random = np.random.default_rng((seed, split == "test", position))
    image = _background(random, size)
    mask = np.zeros(size, np.uint8)
    taken = np.zeros(size, bool)
    for _ in range(digits):
        side = int(random.integers(SMALLEST, LARGEST + 1))
        top, left = (int(random.integers(0, extent - side + 1)) for extent in size)
        box = np.s_[top : top + side, left : left + side]
        if not taken[box].any():
            taken[box] = True
            _write(random, split, image[box], mask[box])
    return _as_photo(random, image), mask


def crop(split: Split, position: int, *, seed: int = 0) -> tuple[Array, int]:
    """A 64 x 64 picture of one digit, or, every tenth, of none, and its class index in `LABELS`."""
    random = np.random.default_rng((seed, 2 + (split == "test"), position))
    image = _background(random, (CROP, CROP))
    value = 0
    if position % 10:
        side = int(random.integers(SMALLEST, LARGEST + 1))
        top, left = (int(random.integers(0, CROP - side + 1)) for _ in range(2))
        box = np.s_[top : top + side, left : left + side]
        value = _write(random, split, image[box], np.zeros((side, side), np.uint8))
    return _as_photo(random, image), value


def _background(random: np.random.Generator, size: tuple[int, int]) -> Array:
    """A dark, coloured, uneven ground `(H, W, 3)` in [0, 1], with thin lines that are no digits."""
    height, width = size
    ground = Image.fromarray(random.integers(0, 100, (height // 32, width // 32, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pen = ImageDraw.Draw(ground)
    for _ in range(height * width // 2000):
        x, y, across, down = (int(value) for value in random.uniform(0, 1, 4) * (width, height, 50, 50))
        color = tuple(int(value) for value in random.integers(60, 200, 3))
        pen.line((x, y, x + across - 25, y + down - 25), fill=color, width=1)
    return np.asarray(ground, np.float32) / 255


def _write(random: np.random.Generator, split: Split, image: Array, mask: Array) -> int:
    """Writes one digit over a square of image and mask, changing both; gives its class index."""
    ink, values = handwriting(split)
    which = int(random.integers(len(values)))
    side = len(mask)
    glyph = Image.fromarray(np.pad(ink[which], 1)).resize((side, side), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR)
    color = random.uniform(0.45, 1, 3)
    image += np.asarray(glyph, np.float32)[..., None] / 255 * (color - image)
    value = int(values[which]) + 1
    bold = glyph.filter(ImageFilter.GaussianBlur(side / 20))
    mask[np.asarray(bold) > 255 * MASK_INK] = value
    return value


def _as_photo(random: np.random.Generator, image: Array) -> Array:
    noisy = image + random.normal(0, 0.04, image.shape)
    return (noisy.clip(0, 1) * 255).round().astype(np.uint8)
