"""Pictures for people: masks in colour, overlays with a legend, heat maps, panels side by side."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fullyconv.labels import Color, LabelSet

Picture = Image.Image | np.ndarray[Any, Any]

PAPER, INK, FRAME = (255, 255, 255), (34, 34, 34), (120, 120, 120)
STRIPES = ((176, 176, 176), (112, 112, 112))
WRONG = (226, 35, 26)
SMALLEST_SIDE = 224  # a smaller picture is enlarged before a legend is set beside it
IGNORED = "ignored"


def colorize(mask: np.ndarray[Any, Any], labels: LabelSet) -> Image.Image:
    """The mask `(H, W)` in its classes' colours; what is no class, such as ignored pixels, is hatched grey."""
    return Image.fromarray(_colors(mask, labels))


def overlay(
    image: Picture, mask: np.ndarray[Any, Any], labels: LabelSet, *, alpha: float = 0.55, legend: bool = True
) -> Image.Image:
    """The image with the mask laid over it, every region edged in its colour.

    Args:
        image: RGB or grey, as large as the mask.
        mask: Class indices `(H, W)`; ignored pixels are hatched grey.
        labels: Names and colours.
        alpha: How strongly the colours cover the image, from 0 to 1.
        legend: Whether to name the classes that occur, below a wide image or beside a tall one, never over it. An
            image whose shorter side is under 224 pixels is enlarged by a whole factor first, so that names fit.
    """
    pixels = _rgb(image)
    if pixels.shape[:2] != mask.shape:
        raise ValueError(f"image and mask must have one size, got {pixels.shape[:2]} and {mask.shape} (height, width)")
    colors = _colors(mask, labels)
    # Pillow blends in bytes; NumPy would take eight times the image in floats.
    mixed = np.array(Image.blend(Image.fromarray(pixels), Image.fromarray(colors), alpha))
    edges = _edges(mask) & (mask < len(labels))
    mixed[edges] = colors[edges]
    picture = Image.fromarray(mixed)
    return with_legend(picture, mask, labels) if legend else picture


def with_legend(picture: Image.Image, mask: np.ndarray[Any, Any], labels: LabelSet) -> Image.Image:
    """The picture with the names and colours of the mask's classes below it, or beside it if it is tall."""
    return _with_entries(picture, _entries(mask, labels))


def mistakes(
    image: Picture, target: np.ndarray[Any, Any], pred: np.ndarray[Any, Any], ignore_index: int
) -> Image.Image:
    """The image in pale grey, with the pixels whose prediction is wrong in red and ignored ones hatched.

    Args:
        image: RGB or grey, as large as the masks.
        target: True class indices `(H, W)`.
        pred: Predicted class indices `(H, W)`.
        ignore_index: The target value of pixels that do not count.
    """
    grey = np.asarray(Image.fromarray(_rgb(image)).convert("L"))
    picture = np.repeat((150 + grey * 0.4).astype(np.uint8)[..., None], 3, axis=2)
    ignored = target == ignore_index
    picture[ignored] = _hatch(*target.shape)[ignored]
    wrong = (target != pred) & ~ignored
    picture[wrong] = (0.25 * picture[wrong] + 0.75 * np.array(WRONG)).astype(np.uint8)
    return Image.fromarray(picture)


def heat_map(
    values: np.ndarray[Any, Any], *, low: float | None = None, high: float | None = None, bar: bool = True
) -> Image.Image:
    """Values `(H, W)` from dark (low) to bright (high); what is not a number is hatched grey.

    Args:
        values: Any finite range.
        low: The value drawn darkest; the smallest if left out.
        high: The value drawn brightest; the largest if left out.
        bar: Whether to set a scale with both ends beside the map; small maps are then enlarged as in `overlay`.
    """
    from matplotlib import colormaps

    finite = values[np.isfinite(values)]
    low = float(finite.min() if finite.size else 0.0) if low is None else low
    high = float(finite.max() if finite.size else 1.0) if high is None else high
    unit = np.clip((np.nan_to_num(values.astype(np.float64), nan=low) - low) / ((high - low) or 1.0), 0, 1)
    inferno = colormaps["inferno"]
    colors = (inferno(unit)[..., :3] * 255).round().astype(np.uint8)
    missing = np.isnan(values)
    colors[missing] = _hatch(*values.shape)[missing]
    picture = Image.fromarray(colors)
    if not bar:
        return picture
    ramp = (inferno(np.linspace(1, 0, 256))[:, None, :3] * 255).round().astype(np.uint8)
    return _with_scale(_enlarged(picture), Image.fromarray(ramp), *_ends(low, high))


def side_by_side(panels: Sequence[tuple[str, Image.Image]], *, columns: int | None = None) -> Image.Image:
    """Pictures in a row, or in rows of `columns`, each under its title and scaled to the height of the first."""
    height = _enlarged(panels[0][1]).height
    scaled = [(title, _of_height(picture, height)) for title, picture in panels]
    font = _font(_text_size(max(height, *(picture.width for _, picture in scaled))))
    columns = columns or len(panels)
    gap, line = math.ceil(font.size * 0.8), math.ceil(font.size * 1.7)
    widths = [
        max(picture.width for _, picture in scaled[column::columns]) for column in range(min(columns, len(scaled)))
    ]
    rows = math.ceil(len(scaled) / columns)
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), rows * (height + line) + gap * rows), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, (title, picture) in enumerate(scaled):
        row, column = divmod(index, columns)
        left, top = gap + sum(widths[:column]) + gap * column, row * (height + line + gap)
        pen.text((left, top + line / 2), _fitted(title, font, widths[column]), INK, font, anchor="lm")
        sheet.paste(picture, (left, top + line))
    return sheet


def _rgb(image: Picture) -> np.ndarray[Any, Any]:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(picture.convert("RGB"))


def _colors(mask: np.ndarray[Any, Any], labels: LabelSet) -> np.ndarray[Any, Any]:
    """Colours `(H, W, 3)` uint8."""
    table = np.array(labels.colors, np.uint8)
    known = mask < len(labels)
    colors: np.ndarray[Any, Any] = table[np.where(known, mask, 0)]
    if not known.all():
        colors[~known] = _hatch(*mask.shape)[~known]
    return colors


def _hatch(height: int, width: int) -> np.ndarray[Any, Any]:
    """Diagonal grey stripes `(H, W, 3)`, as wide as the picture's size asks for."""
    stripe = max(2, min(height, width) // 90)
    diagonal: np.ndarray[Any, Any] = (np.arange(height)[:, None] + np.arange(width)[None]) // stripe % 2
    stripes: np.ndarray[Any, Any] = np.array(STRIPES, np.uint8)[diagonal]
    return stripes


def _edges(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pixels `(H, W)` whose right or lower neighbour is of another class."""
    edges = np.zeros(mask.shape, bool)
    edges[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edges[:-1] |= mask[:-1] != mask[1:]
    return edges


def _entries(mask: np.ndarray[Any, Any], labels: LabelSet) -> list[tuple[str, Color | None]]:
    """Name and colour of each class that occurs, in the label set's order; None stands for the hatch."""
    present = np.unique(mask)
    entries: list[tuple[str, Color | None]] = [
        (labels.names[index], labels.colors[index]) for index in present if index < len(labels)
    ]
    return [*entries, (IGNORED, None)] if (present >= len(labels)).any() else entries


def _with_entries(picture: Image.Image, entries: Sequence[tuple[str, Color | None]]) -> Image.Image:
    picture = _enlarged(picture)
    font = _font(_text_size(max(picture.size)))
    chip, line, gap = round(font.size * 1.1), round(font.size * 1.75), round(font.size * 0.8)
    widest = math.ceil(max(font.getlength(name) for name, _ in entries))
    beside = picture.height > picture.width
    if beside:
        rows = max(1, (picture.height - gap) // line)
        columns = math.ceil(len(entries) / rows)
        cell = chip + gap + widest + gap
        sheet = Image.new("RGB", (picture.width + gap + columns * cell, picture.height), PAPER)
        corner = picture.width + gap, gap // 2
    else:
        cell = min(chip + gap + widest + gap, picture.width - gap)
        columns = max(1, (picture.width - gap) // cell)
        rows = math.ceil(len(entries) / columns)
        columns = math.ceil(len(entries) / rows)
        sheet = Image.new("RGB", (picture.width, picture.height + gap + rows * line), PAPER)
        corner = gap, picture.height + gap // 2
    sheet.paste(picture)
    pen = ImageDraw.Draw(sheet)
    for index, (name, color) in enumerate(entries):
        column, row = divmod(index, rows)
        left, middle = corner[0] + column * cell, corner[1] + row * line + line // 2
        square = (left, middle - chip // 2, left + chip - 1, middle - chip // 2 + chip - 1)
        swatch = _hatch(chip, chip) if color is None else np.full((chip, chip, 3), color, np.uint8)
        sheet.paste(Image.fromarray(swatch), square[:2])
        pen.rectangle(square, outline=FRAME, width=max(1, round(font.size / 16)))
        room = cell - chip - gap
        pen.text((left + chip + gap // 2, middle), _fitted(name, font, room), INK, font, anchor="lm")
    return sheet


def _with_scale(picture: Image.Image, ramp: Image.Image, low: str, high: str) -> Image.Image:
    font = _font(_text_size(max(picture.size)))
    gap = round(font.size * 0.8)
    width = math.ceil(max(font.getlength(low), font.getlength(high)))
    sheet = Image.new("RGB", (picture.width + 4 * gap + width, picture.height), PAPER)
    sheet.paste(picture)
    sheet.paste(ramp.resize((gap, picture.height)), (picture.width + gap, 0))
    pen = ImageDraw.Draw(sheet)
    left = picture.width + round(2.5 * gap)
    pen.text((left, 0), high, INK, font, anchor="lt")
    pen.text((left, picture.height), low, INK, font, anchor="lb")
    return sheet


def _ends(low: float, high: float) -> tuple[str, str]:
    """Both ends of a scale in three digits; an end that is nothing beside the other is 0."""
    span = high - low
    first, last = ("0" if abs(end) < span / 1000 else f"{end:.3g}" for end in (low, high))
    return first, last


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = math.ceil(SMALLEST_SIDE / min(picture.size))
    if factor == 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _of_height(picture: Image.Image, height: int) -> Image.Image:
    if picture.height == height:
        return picture
    width = max(1, round(picture.width * height / picture.height))
    resampling = Image.Resampling.NEAREST if height > picture.height else Image.Resampling.BOX
    return picture.resize((width, height), resampling)


def _text_size(side: int) -> int:
    """Points that read well on a picture whose longer side has so many pixels, shown whole on a screen."""
    return max(13, round(side * 0.017))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _fitted(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """The text, shortened with an ellipsis until it is at most `room` pixels wide."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"
