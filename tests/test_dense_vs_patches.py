"""Section 3.1: that the maps are those of the paper, and that gains are told rightly."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fullyconv.experiments.dense_vs_patches import CASES, Case, _rows, conclusion, measure
from fullyconv.experiments.workbench import Settings, Workbench


@pytest.mark.parametrize("net", CASES)
def test_a_patch_gives_one_score_and_the_image_ten_by_ten(net: str) -> None:
    case = CASES[net]
    with torch.device("meta"):
        network = case.make()
        shapes = [network(torch.zeros(1, 3, side, side)).shape for side in (case.patch, case.image)]
    assert shapes == [(1, 1000, 1, 1), (1, 1000, 10, 10)]


def test_classifiers_have_as_many_parameters_as_those_they_were() -> None:
    with torch.device("meta"):
        counts = {net: sum(each.numel() for each in case.make().parameters()) for net, case in CASES.items()}
    # CaffeNet and GoogLeNet: their Caffe models; the others: torchvision's.
    assert counts == {"AlexNet": 60_965_224, "VGG16": 138_357_544, "GoogLeNet": 6_998_552, "ResNet-18": 11_689_512}


def test_gains_are_scaled_to_a_hundred_patches_and_set_beside_the_papers() -> None:
    seconds = {"map": [2.0, 4.0, 2.0], "single": [1.0, 1.0, 1.0], "batch": [0.64, 0.64, 0.64]}
    rows = _rows("AlexNet", {"forward": seconds, "forward and backward": seconds})
    told = {row.measure: (row.ours, row.paper) for row in rows}
    assert told["map, forward"] == (2000, 22)
    assert told["gain on single patches, forward"] == (12.5, pytest.approx(5.45, abs=0.01))
    assert told["gain on single patches, forward and backward"] == (12.5, pytest.approx(6.10, abs=0.01))
    assert told["gain on batches of 16, forward"] == (pytest.approx(2), None)
    assert rows[1].repetitions == (12.5, 6.25, 12.5)
    assert "12.5 to 12.5 times as fast as patches one by one, 2 to 2 times as in batches" in conclusion(rows)
    assert "AlexNet's gains are 12.5 where the paper has 5.45 and 12.5 where the paper has 6.1" in conclusion(rows)


def test_nets_are_measured_within_the_time_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make() -> nn.Module:
        made.append(1)
        return nn.Conv2d(3, 2, 8, 4)

    cases = {net: Case(make, 8, 44) for net in ("one", "two")}
    settings = Settings("dense-vs-patches", None, (), 0.001, "resnet10t", "none", 0)
    found = measure(Workbench(settings, tmp_path), cases, rounds=5)
    assert len(found.rows) == 12
    assert all(row.ours > 0 and len(row.repetitions) >= 3 for row in found.rows)
    assert measure(Workbench(settings, tmp_path), cases, rounds=5) == found
    assert len(made) == 2
