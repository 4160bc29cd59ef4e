"""Recipes: the paper's solvers, step by step as Caffe takes them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.models import create
from fullyconv.training.plan import recipe_of, reduction_of, stage_of
from fullyconv.training.recipes import (
    CVPR15,
    HEAVY,
    RECIPES,
    Recipe,
    learning_rate_factor,
    optimizer_of,
    parameter_groups,
    recipe_for,
    reduced,
)
from fullyconv.transforms import Augmentation

TINY = "fcn16s-test_resnet"


def small_net() -> nn.ModuleDict:
    """A trunk and a score layer by the names that a network gives them."""
    return nn.ModuleDict({"trunk": nn.Conv2d(3, 4, 3), "score_layers": nn.Conv2d(4, 2, 1)}).double()


def settings(recipe: Recipe, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and decay of each parameter that is trained, as multiples of the recipe's."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["rate"], group["weight_decay"] / recipe.weight_decay)
        for group in parameter_groups(recipe, model)
        for parameter in group["params"]
    }


def test_rates_are_the_papers():
    rates = {trunk: recipe_for("cvpr15", trunk).learning_rate for trunk in ("alexnet", "vgg16", "googlenet")}
    assert rates == {"alexnet": 1e-3, "vgg16": 1e-4, "googlenet": 5e-5}
    for stage, rate in enumerate([1e-10, 1e-12, 1e-14]):
        assert recipe_for("heavy", "vgg16", stage=stage).learning_rate == pytest.approx(rate, rel=1e-12)
        assert recipe_for("cvpr15", "vgg16", stage=stage).learning_rate == pytest.approx(1e6 * rate, rel=1e-12)
    on_sift_flow = [recipe_for("heavy", "vgg16", stage=stage, layout="siftflow").learning_rate for stage in range(3)]
    assert on_sift_flow == pytest.approx([1e-10, 1e-12, 1e-12], rel=1e-12)
    assert recipe_for("default", "vgg16", stage=2) == RECIPES["default"]


def test_a_stage_is_what_starts_from_an_fcn(tmp_path: Path):
    for file in ("model.safetensors", "config.json", "lone/vgg16.safetensors"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    names = ("fcn32s-vgg16", "fcn16s-vgg16", "fcn8s-vgg16", "fcn8s-atonce-vgg16")
    assert [stage_of(name, str(tmp_path)) for name in names] == [0, 1, 2, 0]
    assert stage_of("fcn32s-vgg16", f"{tmp_path},{tmp_path}") == 1  # two towers
    for start in ("none", "hub", str(tmp_path / "lone" / "vgg16.safetensors")):
        assert [stage_of(name, start) for name in names] == [0, 0, 0, 0]


def test_the_papers_solvers_are_fixed_and_see_whole_images():
    assert (CVPR15.batch, CVPR15.momentum, CVPR15.reduction) == (20, 0.9, "image")
    assert (HEAVY.batch, HEAVY.momentum, HEAVY.reduction) == (1, 0.99, "sum")
    for recipe in (CVPR15, HEAVY):
        assert (recipe.optimizer, recipe.weight_decay, recipe.augmentation) == ("sgd", 5e-4, None)
        assert (recipe.ema, recipe.balance, recipe.sampling, recipe.growth) == (0, "none", 1, 0)
        assert {learning_rate_factor(recipe, progress / 10) for progress in range(11)} == {1.0}


def test_biases_learn_twice_as_fast_and_do_not_decay():
    expected = {
        "trunk.weight": (1, 1),
        "trunk.bias": (2, 0),
        "score_layers.weight": (1, 1),
        "score_layers.bias": (2, 0),
    }
    assert settings(recipe_for("heavy", "vgg16"), small_net()) == expected
    assert settings(recipe_for("cvpr15", "googlenet"), small_net()) == expected


def test_only_the_score_layer_of_alexnet_has_other_biases():
    model = create("fcn32s-alexnet", 2)
    found = settings(recipe_for("cvpr15", "alexnet"), model)
    assert found.pop("score_layers.stride32.bias") == (2, 0)
    assert set(found) == {name for name, _ in model.named_parameters()} - {"score_layers.stride32.bias"}
    assert set(found.values()) == {(1, 1)}


def test_upsampling_kernels_learn_as_weights_or_not_at_all():
    for upscore, kernels in (
        ("fixed", set()),
        ("learned", {"upscore_layers.stride32.weight"}),
        ("all", {"upscore_layers.stride32.weight", "upscore_layers.image.weight"}),
    ):
        found = settings(HEAVY, create(TINY, 2, upscore=upscore))
        assert {name for name in found if name.startswith("upscore_layers")} == kernels
        assert all(found[name] == (1, 1) for name in kernels)


@pytest.mark.parametrize("trunk", ["vgg16", "alexnet"])
def test_steps_are_caffes(trunk: str):
    recipe = replace(recipe_for("heavy", trunk), learning_rate=0.1, weight_decay=0.2)
    net = small_net()
    optimizer = optimizer_of(recipe, parameter_groups(recipe, net))
    plain = trunk == "alexnet"
    # lr_mult and decay_mult as in the authors' net.py files.
    multiples = {
        "trunk.weight": (1, 1),
        "trunk.bias": (1, 1) if plain else (2, 0),
        "score_layers.weight": (1, 1),
        "score_layers.bias": (2, 0),
    }
    weights = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    speeds = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for _ in range(4):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * group["rate"]
        for name, parameter in net.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            rate, decay = 0.1 * multiples[name][0], 0.2 * multiples[name][1]
            # SGDSolver::Regularize, then ComputeUpdateValue: diff += decay W; V = momentum V + rate diff; W -= V.
            speeds[name] = 0.99 * speeds[name] + rate * (parameter.grad + decay * weights[name])
            weights[name] = weights[name] - speeds[name]
        optimizer.step()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=0, atol=1e-12)


def steps(recipe: Recipe, losses: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The weights of a little net after a step on each image and target, its loss reduced as the recipe says."""
    torch.manual_seed(0)
    net = small_net()
    optimizer = optimizer_of(recipe, parameter_groups(recipe, net))
    for image, target in losses:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * group["rate"]
        optimizer.zero_grad()
        logits = net["score_layers"](net["trunk"](image))
        F.cross_entropy(logits, target, reduction="sum" if recipe.reduction == "sum" else "mean").backward()
        optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


def test_sum_and_mean_take_the_same_steps():
    data = [(torch.randn(1, 3, 9, 7).double(), torch.randint(0, 2, (1, 7, 5))) for _ in range(5)]
    summed = replace(HEAVY, learning_rate=1e-3, weight_decay=0.1)
    averaged = reduced(summed, "mean", pixels=35)
    assert averaged.learning_rate == pytest.approx(0.035)
    start = steps(summed, [])
    for one, other, before in zip(steps(summed, data), steps(averaged, data), start, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert not torch.allclose(one, before)


@pytest.mark.parametrize("reduction", ["mean", "image"])
def test_to_and_fro_is_the_recipe_itself(reduction: str):
    recipe = HEAVY
    again = reduced(reduced(recipe, reduction, 12345.6), "sum", 12345.6)
    assert again.learning_rate == pytest.approx(recipe.learning_rate, rel=1e-14)
    assert again.weight_decay == pytest.approx(recipe.weight_decay, rel=1e-14)
    assert replace(again, learning_rate=1e-10, weight_decay=5e-4) == recipe


def test_means_of_images_and_of_pixels_share_their_rate():
    assert reduced(CVPR15, "mean", 1000) == replace(CVPR15, reduction="mean")


def test_all_losses_but_cross_entropy_are_means_whatever_the_recipe():
    for loss in ("hardest", "dice", "focal"):
        assert reduction_of(loss, None, HEAVY.reduction) == reduction_of(loss, "mean", HEAVY.reduction) == "mean"
    assert reduction_of("cross_entropy", None, HEAVY.reduction) == "sum"


def test_adamw_keeps_its_rate():
    recipe = RECIPES["default"]
    assert reduced(recipe, "sum", 1000) == replace(recipe, reduction="sum")


def test_augmentation_is_the_recipes_or_the_one_that_is_named():
    whole = {"augment": None, "crop": None}
    assert recipe_of(CVPR15, {}, [], (3,), **whole).augmentation is None
    jitter = recipe_of(HEAVY, {}, [], (3,), augment="paper", crop=None).augmentation
    assert jitter is not None
    assert (jitter.crop, jitter.shift, jitter.flip, jitter.scale, jitter.light) == (None, 32, 0.5, (1, 1), 0)
    plain = recipe_of(RECIPES["default"], {}, [], (3,), augment="none", crop=(64, 96)).augmentation
    assert plain == Augmentation((64, 96), scale=(1, 1), aspect=1, flip=0, light=0, focus=0)
    varied = recipe_of(HEAVY, {}, [], (3,), augment="default", crop=(64, 96)).augmentation
    assert varied == Augmentation((64, 96))
