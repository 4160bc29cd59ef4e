"""Charts: any number of classes, percentages that add up, runs that have hardly begun."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv import charts
from fullyconv.labels import LabelSet


@pytest.mark.parametrize("classes", [1, 2, 11, 150])
def test_charts_serve_any_number_of_classes(tmp_path: Path, classes: int) -> None:
    labels = LabelSet(tuple(f"class {index}" for index in range(classes)))
    counts = np.diag(np.arange(classes)) * 100 + 1
    counts[0] = 0
    iou = np.linspace(0, 1, classes)
    iou[0] = np.nan
    for figure in (charts.class_bars(iou, labels.names, labels.colors), charts.confusion(counts, labels.names)):
        charts.save(figure, tmp_path / "chart.png")
        with Image.open(tmp_path / "chart.png") as picture:
            assert 300 < picture.width < 4000


def test_rows_of_the_confusion_chart_add_up_to_one_hundred() -> None:
    figure = charts.confusion(np.array([[3, 1], [0, 5]]), ("a", "b"))
    shown = figure.axes[0].images[0].get_array() ** 2
    assert shown.sum(1).tolist() == pytest.approx([100, 100])


def test_curves_need_no_validation_and_no_positive_loss(tmp_path: Path) -> None:
    charts.save(charts.curves([]), tmp_path / "empty.png")
    charts.save(charts.curves([{"kind": "train", "step": 1, "loss": 0.0, "lr": 0.1}]), tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()


def test_the_legend_of_curves_stands_beside_all_axes() -> None:
    scores = dict.fromkeys(charts.SCORE_COLORS, 0.5)
    figure = charts.curves([{"kind": "validation", "step": step, **scores} for step in (1, 2)])
    assert len(figure.legends) == 1
    assert all(axes.get_legend() is None for axes in figure.axes)


def test_a_short_run_shows_its_loss_as_measured_and_smoothed() -> None:
    figure = charts.curves([{"kind": "train", "step": step, "loss": 1 + step % 2, "lr": 0.1} for step in range(9)])
    measured, smoothed = (line.get_ydata() for line in figure.axes[0].lines)
    assert np.ptp(smoothed[1:-1]) < 0.5 < np.ptp(measured)


def test_smoothing_keeps_a_constant() -> None:
    assert charts._smoothed(np.full(500, 3.0)).tolist() == pytest.approx([3.0] * 500)


def row(label: str, measure: str, ours: float, paper: float | None = None) -> dict[str, object]:
    return {
        "label": label, "measure": measure, "unit": "%", "ours": ours, "paper": paper, "released": None,
        "repetitions": [ours - 1, ours + 1],
    }  # fmt: skip


def test_a_comparison_has_a_panel_per_measure_and_kind_of_curve() -> None:
    rows = [row("a", "mean IU", 40), row("b", "mean IU", 50, paper=59.4), row("b", "time", 3)]
    lines = [
        {"label": label, "panel": panel, "across": "steps", "x": [1, 2], "y": [3, 4]}
        for panel in ("loss", "error")
        for label in ("a", "a", "b")
    ]
    figure = charts.comparison(rows, lines)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["mean IU, %", "time, %", "loss", "error"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "paper", "a", "b"]
    assert [len(axes.get_yticks()) for axes in shown[:2]] == [2, 2]  # all labels, though one has no time


def test_the_first_row_of_a_comparison_stands_on_top() -> None:
    axes = charts.comparison([row("a", "mean IU", 40), row("b", "mean IU", 50)]).axes[0]
    places = {text.get_text(): place for place, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    assert places["a"] > places["b"]


def test_numbers_far_apart_stand_on_a_logarithmic_axis_unless_they_are_percents() -> None:
    def scale(paper: float, unit: str) -> str:
        return str(
            charts.comparison([row("a", "time", 10, paper=paper) | {"unit": unit, "repetitions": [10]}])
            .axes[0]
            .get_xscale()
        )

    assert scale(paper=199, unit="ms") == "linear"
    assert scale(paper=201, unit="ms") == "log"
    assert scale(paper=201, unit="%") == "linear"


def test_a_small_difference_does_not_fill_the_axis() -> None:
    def extent(*values: float) -> tuple[float, float]:
        rows = [row(str(value), "mean IU", value) | {"repetitions": [value]} for value in values]
        return charts.comparison(rows).axes[0].get_xlim()

    assert extent(40, 40) == pytest.approx((28.8, 51.2))
    assert extent(40, 42) == pytest.approx((29.8, 52.2))
    assert extent(40, 80) == pytest.approx((37.6, 82.4))
    assert extent(3, 3)[0] == 0
    assert extent(0, 100) == pytest.approx((-6, 106))


def test_a_measure_in_which_all_are_alike_has_no_panel() -> None:
    rows = [
        row(label, measure, 32, paper=paper) for label in "ab" for measure, paper in (("stride", 32), ("field", 404))
    ]
    assert [axes.get_title(loc="left") for axes in charts.comparison(rows).axes] == ["field, %"]


def test_ticks_over_many_decades_are_tens() -> None:
    def ticks(paper: float) -> list[float]:
        axis = charts.comparison([row("a", "time", 1, paper=paper) | {"unit": "ms", "repetitions": [1]}]).axes[0].xaxis
        low, high = axis.get_view_interval()
        return [tick for tick in axis.get_majorticklocs().tolist() if low <= tick <= high]

    assert ticks(paper=30) == [1, 2, 5, 10, 20]
    assert ticks(paper=3000) == [1, 10, 100, 1000]
