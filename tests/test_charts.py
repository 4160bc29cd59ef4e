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


def test_smoothing_keeps_a_constant() -> None:
    assert charts._smoothed(np.full(500, 3.0)).tolist() == pytest.approx([3.0] * 500)
