import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.datasets import digits
from fullyconv.errors import FullyconvError
from fullyconv.experiments import quickstart
from fullyconv.experiments.quickstart import SCORES, DigitClassifier, Effort, Quickstart, convert, refine

LITTLE = Effort(crops=64, classifier_steps=1, canvases=8, net_steps=1, test_crops=20, test_canvases=3)


def classifier() -> DigitClassifier:
    """With normalisation statistics that are not the initial ones."""
    made = DigitClassifier()
    made(torch.rand(8, 3, 64, 64))
    return made.eval()


def test_canvas_is_a_function_of_split_seed_and_position() -> None:
    first, again = digits.canvas("train", 7, seed=3), digits.canvas("train", 7, seed=3)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    others = [digits.canvas("train", 8, seed=3), digits.canvas("train", 7, seed=4), digits.canvas("test", 7, seed=3)]
    assert all(not np.array_equal(first[0], other[0]) for other in others)


def test_canvas_marks_digits_and_only_digits() -> None:
    image, mask = digits.canvas("train", 0, size=(160, 200))
    assert image.shape == (160, 200, 3)
    assert image.dtype == mask.dtype == np.uint8
    assert mask.shape == (160, 200)
    assert set(np.unique(mask)) <= set(range(len(digits.LABELS)))
    assert image[mask > 0].mean() > 2 * image[mask == 0].mean()


def test_every_tenth_crop_is_empty() -> None:
    values = [digits.crop("train", position)[1] for position in range(30)]
    assert [position for position, value in enumerate(values) if value == 0] == [0, 10, 20]


def test_training_and_test_digits_are_apart() -> None:
    train, test = (digits.handwriting(split)[0] for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert not {ink.tobytes() for ink in train} & {ink.tobytes() for ink in test}


def test_digits_without_scikit_learn_name_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    digits.handwriting.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(FullyconvError, match=r"SEG-U009 .*pip install 'fullyconv\[quickstart\]'"):
        digits.handwriting("train")


@torch.no_grad()
def test_converted_classifier_gives_the_classifiers_logits() -> None:
    original = classifier()
    net = convert(original).eval()
    assert quickstart.largest_difference(original, net, torch.rand(4, 3, 64, 64)) < 1e-5


@torch.no_grad()
def test_converted_classifier_moves_with_the_image() -> None:
    net = convert(classifier()).eval()
    image = torch.rand(1, 3, 192, 256)
    whole, part = net.scores(image), net.scores(image[:, :, 32:, 64:])
    assert torch.allclose(whole[:, :, 4:-2, 5:-2], part[:, :, 3:-2, 3:-2], atol=1e-5)


@torch.no_grad()
def test_a_new_tap_changes_nothing_at_first() -> None:
    original = classifier()
    coarse = convert(original).eval()
    fine = refine(coarse, original, 16).eval()
    image = torch.rand(1, 3, 128, 160)
    assert [int(grid.stride) for grid in fine.grids] == [16, 32]
    assert torch.equal(fine.scores(image), fine.upscore_layers["stride32"](coarse.scores(image), (8, 10)))


def test_quickstart_writes_pictures_and_report(tmp_path: Path) -> None:
    result = quickstart.run(tmp_path / "deep" / "out", 0, LITTLE)
    assert sorted(file.name for file in result.out.iterdir()) == [
        "heat_map.png", "predictions.png", "report.html", "report.json",
    ]  # fmt: skip
    assert [entry.name for entry in result.out.parent.iterdir()] == ["out"]
    values = result.to_json()
    assert {"classifier_accuracy", "nets", "seconds"} <= set(values)
    assert [net["name"] for net in values["nets"]] == ["FCN-32s", "FCN-16s", "FCN-8s"]
    assert all({"name", *quickstart.SCORES} == set(net) for net in values["nets"])
    page = (result.out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "FCN-16s" in str(result)


def test_quickstart_refuses_a_seed_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-U004  --seed must be at least 0, got -1"):
        quickstart.quickstart(out=tmp_path / "out", seed=-1)


def test_quickstart_refuses_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-U008 .*--out"):
        quickstart.run(tmp_path, 0, LITTLE)


def test_quickstart_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "convert", stop)
    with pytest.raises(KeyboardInterrupt):
        quickstart.run(tmp_path / "out", 0, LITTLE)
    assert not list(tmp_path.iterdir())


def test_a_finer_net_that_does_not_score_above_the_last_is_said() -> None:
    nets = tuple(
        {"name": name, **dict.fromkeys(SCORES, value)} for name, value in zip("abc", (0.2, 0.4, 0.3), strict=True)
    )
    told = str(Quickstart(0.9, 0.0, nets, 60.0, Path("out")))
    assert "c does not score above b" in told
    assert "b does not score above a" not in told
