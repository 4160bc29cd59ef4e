"""Charts of a run: curves over the steps, a bar per class, the confusion matrix. matplotlib stays in here."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fullyconv.labels import Color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

INK, QUIET, ACCENT, SECOND = "#222222", "#8a8a8a", "#2563b0", "#c2571a"
SCORE_COLORS = {
    "mean_iou": ACCENT,
    "pixel_accuracy": SECOND,
    "mean_accuracy": "#6a51a3",
    "frequency_weighted_iou": "#3a8a5c",
}
FAR_APART = 20  # ratio from which on numbers stand on a logarithmic axis
LEAST_POINTS = 20  # of percents that an axis shows
MOST_NUMBERS = 25  # classes up to which each cell of a confusion matrix carries its number


def class_bars(values: Array, names: Sequence[str], colors: Sequence[Color]) -> "Figure":
    """A bar per class, the best on top, in the class's colour, with its number; classes without a value say so.

    Args:
        values: Fractions `(K,)` in [0, 1]; NaN for a class without pixels.
        names: One per class.
        colors: One per class.
    """
    order = sorted(range(len(values)), key=lambda index: (not math.isnan(values[index]), values[index]))
    size = _text_size(len(values))
    figure = _figure(7.5, 0.9 + len(values) * size * 0.021)
    axes = figure.subplots()
    for place, index in enumerate(order):
        value = values[index]
        known = not math.isnan(value)
        axes.barh(
            place,
            100 * value if known else 0,
            height=0.72,
            color=tuple(channel / 255 for channel in colors[index]),
            edgecolor=QUIET,
            linewidth=0.6,
        )
        text = f"{100 * value:.1f}" if known else "in neither truth nor prediction"
        # White behind the number, so that the line of the mean does not cross it.
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.text(100 * value + 1 if known else 1, place, text, va="center", fontsize=size, color=INK, bbox=behind)
    axes.set_yticks(range(len(order)), [_short(names[index]) for index in order], fontsize=size)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("IoU, percent")
    if not np.isnan(values).all():
        mean = 100 * float(np.nanmean(values))
        axes.axvline(mean, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        axes.set_title(f"mean IoU {mean:.1f}", loc="left", fontsize=11)
    axes.tick_params(axis="y", length=0)
    _without_box(axes)
    return figure


def confusion(counts: Array, names: Sequence[str]) -> "Figure":
    """Where the pixels of each true class went: rows in percent, which add up to 100.

    Args:
        counts: Pixel counts `(K, K)`, row target, column pred.
        names: One per class.
    """
    total = counts.sum(1, keepdims=True)
    share = np.divide(100 * counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    classes = len(names)
    size = _text_size(classes)
    side = max(3.2, classes * (0.42 if classes <= MOST_NUMBERS else size * 0.021))
    figure = _figure(side + 2.2, side + 1.5)
    axes = figure.subplots()
    # The square root keeps a confusion of a few percent visible beside the diagonal.
    picture = axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=10)
    if classes <= MOST_NUMBERS:
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=0.6)
        for row, column in np.argwhere(share >= 0.5):
            value = share[row, column]
            shade = "white" if value > 40 else INK
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=size - 1, color=shade)
    short = [_short(name) for name in names]
    axes.set_xticks(range(classes), short, rotation=90, fontsize=size)
    axes.set_yticks(range(classes), short, fontsize=size)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    for row in np.flatnonzero(total[:, 0] == 0):
        axes.axhspan(row - 0.5, row + 0.5, color="#e4e4e4", zorder=2)
    bar = figure.colorbar(picture, shrink=min(1.0, 3.2 / side), pad=0.02)
    bar.set_ticks([math.sqrt(value) for value in (0, 1, 10, 25, 50, 100)], labels=["0", "1", "10", "25", "50", "100"])
    bar.set_label("percent of the true class")
    return figure


def curves(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss, learning rate and scores over the steps of a run.

    Args:
        records: The lines of metrics.jsonl: kind "train" with step, loss, lr; kind "validation" with step and scores.
    """
    training = [record for record in records if record.get("kind") == "train"]
    validations = [record for record in records if record.get("kind") == "validation"]
    figure = _figure(7.5, 7.2)
    loss_axes, rate_axes, score_axes = figure.subplots(3, sharex=True, height_ratios=(3, 1.2, 3))
    steps, losses = _series(training, "loss")
    loss_axes.plot(steps, losses, color=ACCENT, alpha=0.4, linewidth=1)
    loss_axes.plot(steps, _smoothed(losses), color=ACCENT, linewidth=1.6)
    if len(losses) and np.nanmin(losses) > 0:
        loss_axes.set_yscale("log")
        _plain_ticks(loss_axes.yaxis)
    loss_axes.set_title("training loss", loc="left", fontsize=11)
    rate_axes.plot(*_series(training, "lr"), color=QUIET, linewidth=1.4)
    rate_axes.set_title("learning rate", loc="left", fontsize=11)
    rate_axes.set_ylim(bottom=0)
    for name, color in SCORE_COLORS.items():
        steps, values = _series(validations, name)
        if len(values):
            score_axes.plot(
                steps,
                100 * values,
                color=color,
                linewidth=1.6,
                marker="o",
                markersize=3,
                label=name.replace("_", " ").replace("iou", "IoU"),
            )
    steps, values = _series(validations, "mean_iou")
    if len(values) and not np.isnan(values).all():
        best = int(np.nanargmax(values))
        score_axes.plot(steps[best], 100 * values[best], "o", markersize=8, markerfacecolor="none", color=ACCENT)
        score_axes.annotate(
            f"best {100 * values[best]:.1f}",
            (steps[best], 100 * values[best]),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            color=ACCENT,
            fontsize=9,
        )
        figure.legend(loc="outside lower center", ncols=len(SCORE_COLORS), frameon=False, fontsize=9)
    score_axes.set_title("validation scores, percent", loc="left", fontsize=11)
    score_axes.set_xlabel("step")
    for axes in (loss_axes, rate_axes, score_axes):
        axes.grid(color="#e6e6e6", linewidth=0.7)
        _without_box(axes)
    return figure


def comparison(rows: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]] = ()) -> "Figure":
    """Our numbers beside the paper's: a panel per measure, a line of dots per label; below, a panel per kind of curve.

    A measure in which all labels are alike, ours and the paper's, has no panel.

    Args:
        rows: label, measure, unit, ours, repetitions; paper and released are numbers or None.
        lines: label, panel, across (the title of the horizontal axis), x and y.
    """
    labels, panels = _unique(rows, "label"), _unique(lines, "panel")
    of_measure = {name: [row for row in rows if row["measure"] == name] for name in _unique(rows, "measure")}
    told = [
        chosen for chosen in of_measure.values() if len({row[by] for row in chosen for by in ("ours", "paper")}) > 1
    ]
    down, below = math.ceil(len(told) / 3), math.ceil(len(panels) / 3)
    across = max(math.ceil(len(some) / height) for some, height in ((told, down), (panels, below)) if height)
    heights = [1.1 + 0.3 * len(labels)] * down + [2.8] * below
    figure = _figure(2.9 * across + 1.6, sum(heights) + 0.4)
    grid = figure.subplots(len(heights), across, squeeze=False, height_ratios=heights)
    dots, curves = grid[:down].flatten().tolist(), grid[down:].flatten().tolist()
    for place, (axes, chosen) in enumerate(zip(dots, told, strict=False)):
        _dots(axes, chosen, labels)
        axes.tick_params(labelleft=place % across == 0)
    for axes, panel in zip(curves, panels, strict=False):
        _lines(axes, [line for line in lines if line["panel"] == panel])
    for axes in (*dots[: len(told)], *curves[: len(panels)]):
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        _without_box(axes)
    for axes in (*dots[len(told) :], *curves[len(panels) :]):
        axes.set_visible(False)
    handles, names = _keys([*dots, *curves])
    columns = len(names) if sum(map(len, names)) < 22 * across else 3
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def ratios(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """How many times as fast as a peer each work is: a dot with the range of its turns, and a mark for the target.

    Args:
        rows: work, against, ratio, spread, and target, which holds least or is None; the first one on top.
    """
    figure = _figure(9.5, 1.2 + 0.3 * len(rows))
    axes = figure.subplots()
    places = list(range(len(rows)))[::-1]
    for place, row in zip(places, rows, strict=True):
        axes.plot(row["spread"], [place, place], color=ACCENT, linewidth=3, alpha=0.35, solid_capstyle="round")
    axes.plot([row["ratio"] for row in rows], places, "o", color=ACCENT, markersize=6, label="measured, and its range")
    least = [((row["target"] or {}).get("least"), place) for row, place in zip(rows, places, strict=True)]
    if asked := [mark for mark in least if mark[0]]:
        axes.plot(*zip(*asked, strict=True), "|", color=SECOND, markersize=13, markeredgewidth=2, label="at least")
    axes.axvline(1, color=INK, linewidth=0.9)
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_yticks(places, [f"{row['work']}\nagainst {row['against']}" for row in rows], fontsize=7)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_title("times as fast as the peer", loc="left", fontsize=11)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    _without_box(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _dots(axes: "Axes", rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    """One measure: each label's repetitions, their mean, and what others say; the first label on top."""
    places = {label: place for place, label in enumerate(reversed(labels))}
    for row in rows:
        place = places[row["label"]]
        axes.plot(row["repetitions"], [place] * len(row["repetitions"]), "o", color=ACCENT, alpha=0.3, markersize=4)
    styles = {"ours": ("o", ACCENT, 6), "paper": ("D", "none", 7), "released": ("s", "none", 7)}
    for source, (shape, inside, size) in styles.items():
        told = [(row[source], places[row["label"]]) for row in rows if row[source] is not None]
        if told:
            values, where = zip(*told, strict=True)
            color = ACCENT if source == "ours" else SECOND
            axes.plot(values, where, shape, color=color, markerfacecolor=inside, markersize=size, label=source)
    unit = rows[0]["unit"]
    given = [(row["ours"], row["paper"], row["released"], *row["repetitions"]) for row in rows]
    shown = [value for values in given for value in values if value is not None and not math.isnan(value)]
    if shown and unit != "%" and max(shown) > FAR_APART * min(shown) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(shown) / 1.6, max(shown) * 1.6)
        _plain_ticks(axes.xaxis)
    elif shown:
        axes.set_xlim(_extent(min(shown), max(shown), LEAST_POINTS if unit == "%" else max(shown) / 2))
        axes.locator_params(axis="x", nbins=5)
    axes.set_yticks(list(places.values()), list(map(_short, places)), fontsize=9)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_title(_wrapped(f"{rows[0]['measure']}{f', {unit}' if unit else ''}"), loc="left", fontsize=11)


def _extent(low: float, high: float, least: float) -> tuple[float, float]:
    """The ends of an axis for numbers from `low` to `high`: not so near that a small difference looks great.

    Zero is as far as the room that is left beside them goes.
    """
    margin = 0.06 * max(high - low, least)
    spare = max(0.0, least - (high - low)) / 2 + margin
    return max(low - spare, min(0.0, low - margin)), high + spare


def _lines(axes: "Axes", lines: Sequence[Mapping[str, Any]]) -> None:
    """One panel of curves; a label keeps its colour from panel to panel."""
    colors = dict(zip(_unique(lines, "label"), (*SCORE_COLORS.values(), *["black"] * len(lines)), strict=False))
    for line in lines:
        color = colors[line["label"]]
        axes.plot(line["x"], line["y"], color=color, linewidth=1.5, alpha=0.8, label=line["label"])
    axes.set_title(_wrapped(lines[0]["panel"]), loc="left", fontsize=11)
    axes.set_xlabel(lines[0]["across"])


def _keys(panels: Sequence["Axes"]) -> tuple[list[Any], list[str]]:
    """The marks of all panels with their names, each once."""
    found = {name: mark for axes in panels for mark, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def _unique(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(str(row[key]) for row in rows))


def save(figure: "Figure", file: str | Path) -> None:
    """Writes a chart as PNG, at twice the density of a plain screen."""
    figure.savefig(file, dpi=144, facecolor="white")


def _figure(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches, without a window and without pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _without_box(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)


def _series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[Array, Array]:
    rows = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    steps, values = zip(*rows, strict=True) if rows else ((), ())
    return np.array(steps, np.float64), np.array(values, np.float64)


def _smoothed(values: Array) -> Array:
    """The running mean over a fiftieth of the series on each side, one value at least, shorter at its ends."""
    reach = max(len(values) // 50, 1)
    total = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return np.asarray((total[last] - total[first]) / (last - first))


def _plain_ticks(axis: "Axis") -> None:
    """Writes the numbers of a logarithmic axis as people do, 0.2, not 2 x 10^-1; over two decades, only tens."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _text_size(classes: int) -> float:
    """Points of a class's name: 9, and smaller where there are many."""
    return 9.0 if classes <= 40 else 6.5


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _wrapped(title: str) -> str:
    """A title no wider than its panel."""
    return textwrap.fill(title, 34)
