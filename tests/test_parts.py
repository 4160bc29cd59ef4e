"""Parts of batches: what a process computes at a time suits the network."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from scenes import squares

from fullyconv.datasets import open_dataset
from fullyconv.errors import FullyconvError
from fullyconv.models import create
from fullyconv.training import train
from fullyconv.training.loop import Loop
from fullyconv.training.parts import out_of_memory, refuse_lone_values
from fullyconv.training.plan import Plan
from fullyconv.training.recipes import CVPR15, PLAIN_CROPS, Recipe

TINY = "fcn16s-test_resnet"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures to train on and one to validate."""
    return squares(tmp_path_factory.mktemp("squares"), train=2, val=1)


def plan_of(recipe: Recipe, *, parts: int = 1) -> Plan:
    return Plan(
        data="data", fingerprint={}, architecture={}, recipe=recipe, reduction="mean", seed=0, steps=1,
        budget_seconds=None, parts=parts, validations=1, precision="fp32", class_weights=None, pretrained="none",
        bands=(3,), also=(), val=None,
    )  # fmt: skip


def cut(crop: tuple[int, int], *, growth: float = 0.0, batch: int = 1) -> Recipe:
    return Recipe(batch=batch, growth=growth, augmentation=replace(PLAIN_CROPS, crop=crop))


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (cut((32, 32)), "32 x 32 pixels.* --batch 2, or a larger --crop$"),
        (cut((48, 48), growth=0.5), "32 x 32 pixels.* larger --crop, or --growth 0$"),  # 0.6 times as high and wide
        (replace(CVPR15, batch=1), "28 x 30 pixels"),  # whole images
    ],
)
def test_a_batch_norm_on_one_cell_is_refused(recipe: Recipe, told: str, tmp_path: Path) -> None:
    pairs = open_dataset(squares(tmp_path, train=1, val=1, size=(28, 30))).pairs("train")
    with pytest.raises(FullyconvError, match=f"SEG-T014.*{told}"):
        refuse_lone_values(plan_of(recipe), 1, create(TINY, 2), pairs)
    split = plan_of(replace(recipe, batch=6), parts=3)
    with pytest.raises(FullyconvError, match="--batch 12, a smaller --accumulate"):
        refuse_lone_values(split, 2, create(TINY, 2), pairs)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        (TINY, cut((32, 48))),  # two cells
        (TINY, cut((48, 48))),
        (TINY, cut((32, 32), batch=2)),
        (TINY, replace(cut((32, 32)), tune="score")),  # by the statistics that it has
        ("fcn16s-test_convnext", cut((32, 32))),  # other norms
    ],
)
def test_a_batch_norm_on_more_is_not(name: str, recipe: Recipe) -> None:
    refuse_lone_values(plan_of(recipe), 1, create(name, 2), [])


def test_the_refusal_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FullyconvError, match="SEG-T014"):
        train(data, model=TINY, out=tmp_path / "run", batch=1, crop=(32, 32), workers=0, precision="fp32")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("plan", "processes", "told"),
    [
        (plan_of(cut((288, 384), batch=8)), 1, "8 samples of up to 288 x 384 .*--accumulate 2 or --crop 192,256$"),
        (plan_of(cut((288, 384), batch=12), parts=2), 2, "3 samples .*--accumulate 3 or"),
        (plan_of(cut((288, 384), batch=7)), 1, "7 samples .*--accumulate 7 or"),
        (plan_of(cut((288, 384), batch=2), parts=2), 1, "1 sample .*train with --crop 192,256$"),
        (plan_of(cut((32, 32))), 1, "1 sample .*train with a smaller network$"),
        (plan_of(CVPR15), 1, "20 samples of up to 40 x 48 .*--accumulate 2 or --crop 32,32$"),
    ],
)
def test_what_takes_less_memory_is_said(plan: Plan, processes: int, told: str, data: Path) -> None:
    fault = out_of_memory(plan, processes, open_dataset(data).pairs("train"), 0, kept=False)
    assert re.search(told, fault.message), fault.message


def test_a_run_that_ran_out_of_memory_can_go_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second_fails(loop: Loop, *given: Any) -> float:
        if loop.state.step:
            raise torch.OutOfMemoryError
        return step(loop, *given)

    step = Loop._step
    settings = {"batch": 2, "crop": (32, 32), "workers": 0, "precision": "fp32", "report": False}
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", second_fails)
        with pytest.raises(FullyconvError, match=r"SEG-T015.*at step 1.*--resume"):
            train(data, model=TINY, out=tmp_path / "run", steps=2, **settings)
    assert train(data, out=tmp_path / "run", resume=True, workers=0, report=False).steps == 2


def test_memory_that_is_short_at_once_leaves_nothing_behind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loop, "_step", Mock(side_effect=MemoryError))
    with pytest.raises(FullyconvError, match=r"SEG-T015.*at step 0.*--accumulate 2"):
        train(data, model=TINY, out=tmp_path / "run", steps=1, batch=2, crop=(64, 64), workers=0, precision="fp32")
    assert not (tmp_path / "run").exists()
