"""Parts of batches: what a process computes at a time suits the network."""

from dataclasses import replace
from pathlib import Path

import pytest
from scenes import squares

from fullyconv.datasets import open_dataset
from fullyconv.errors import FullyconvError
from fullyconv.models import create
from fullyconv.training import train
from fullyconv.training.parts import refuse_lone_values
from fullyconv.training.plan import Plan
from fullyconv.training.recipes import CVPR15, PLAIN_CROPS, Recipe

TINY = "fcn16s-test_resnet"


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


def test_the_refusal_leaves_nothing_behind(tmp_path: Path) -> None:
    data = squares(tmp_path / "data", train=2, val=1)
    with pytest.raises(FullyconvError, match="SEG-T014"):
        train(data, model=TINY, out=tmp_path / "run", batch=1, crop=(32, 32), workers=0, precision="fp32")
    assert not (tmp_path / "run").exists()
