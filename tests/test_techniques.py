"""Techniques of the paper's section 4.3: each can be switched on, and does what it says and nothing else."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scenes import squares
from thin import make_thin, trunk_of
from torch import Tensor, nn

from fullyconv.datasets import open_dataset
from fullyconv.errors import FullyconvError
from fullyconv.kernels import upsample_argmax
from fullyconv.models import FCN, create
from fullyconv.sampling import Stream
from fullyconv.surgery import trace
from fullyconv.training import train
from fullyconv.training.loading import Decoder, Samples
from fullyconv.training.loop import Objective
from fullyconv.training.recipes import RECIPES, learning_rate_factor, optimizer_of, parameter_groups, recipe_for

TINY = "fcn16s-test_resnet"
LRASPP = "torchvision:lraspp_mobilenet_v3_large"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of a bright square on noise, four to train on and two to validate."""
    return squares(tmp_path_factory.mktemp("squares"), train=4, val=2)


def test_output_layer_tuning_changes_nothing_else(data: Path, tmp_path: Path):
    settings = {"steps": 3, "batch": 2, "augment": "none", "ema": 0.0, "validations": 1, "workers": 0, "report": False}
    start = train(data, model=TINY, out=tmp_path / "start", **settings).run
    tuned = train(data, model=TINY, out=tmp_path / "tuned", tune="score", pretrained=str(start), **settings).run
    before = load_file(start / "model" / "model.safetensors")
    after = load_file(tuned / "last" / "model.safetensors")
    assert any(name.endswith("running_mean") for name in before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("score_layers.")}


@pytest.mark.parametrize("upscore", ["fixed", "learned", "all"])
def test_fixed_kernels_stay_and_learned_ones_move(upscore: str):
    model = create(TINY, 3, upscore=upscore)
    kernels = {name: layer.weight.detach().clone() for name, layer in model.upscore_layers.items()}
    recipe = RECIPES["default"]
    optimizer = optimizer_of(recipe, parameter_groups(recipe, model))
    objective = Objective(model, "cross_entropy", None, 255)
    for _ in range(10):
        optimizer.zero_grad()
        objective(torch.rand(2, 3, 40, 40), torch.randint(0, 3, (2, 1, 40, 40))).sum().backward()
        optimizer.step()
    learned = {"fixed": set(), "learned": {"stride32"}, "all": {"stride32", "image"}}[upscore]
    for name, layer in model.upscore_layers.items():
        assert torch.equal(layer.weight, kernels[name]) == (name not in learned)
        assert layer.weight.requires_grad == (name in learned)


def test_sampled_losses_are_functions_of_seed_and_position(data: Path):
    dataset = open_dataset(data)
    decoder = Decoder(dataset.pairs("train"), dataset.labels, (3,))

    def masks(seed: int, keep: float) -> list[Tensor]:
        samples = Samples(decoder, Stream(seed, 4), None, keep=keep)
        return [samples[position].masks for position in (5, 1, 9)]

    whole, some, again, other = masks(0, 1.0), masks(0, 0.25), masks(0, 0.25), masks(1, 0.25)
    for index in range(3):
        assert torch.equal(some[index], again[index])
        assert not torch.equal(some[index], other[index])
        kept = some[index] != 255
        assert torch.equal(some[index][kept], whole[index][kept])
        assert abs(kept.float().mean() - 0.25) < 4 * (0.25 * 0.75 / kept.numel()) ** 0.5
    # The first and the last are samples of one image in two epochs: each draws its own pixels.
    one_image = [(a, b) for a in range(12) for b in range(a) if Stream(0, 4)[a].index == Stream(0, 4)[b].index]
    samples = Samples(decoder, Stream(0, 4), None, keep=0.5)
    assert not any(torch.equal(samples[a].masks, samples[b].masks) for a, b in one_image)


def test_a_loss_of_no_pixels_is_refused(data: Path, tmp_path: Path):
    for keep in (0.0, -0.5, 1.5):
        with pytest.raises(FullyconvError, match=r"SEG-U004.*--sampling"):
            train(data, model=TINY, out=tmp_path / "run", sampling=keep)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"tune": "score"}, "--pretrained"),
        ({"tune": "score", "model": LRASPP, "pretrained": "own.safetensors"}, "such as fcn8s-resnet18"),
        ({"tune": "score", "upscore": "all", "pretrained": "hub"}, "leave one of the two out"),
        ({"loss": "dice", "reduction": "sum"}, "leave --reduction out"),
        ({"augment": "none", "growth": 0.3}, "--crop"),
        ({"recipe": "heavy", "growth": 0.3}, "--crop"),
    ],
)
def test_an_option_that_could_do_nothing_is_refused(data: Path, tmp_path: Path, options: dict[str, object], cure: str):
    with pytest.raises(FullyconvError, match=f"SEG-T012.*{cure}"):
        train(data, **{"model": TINY, "out": tmp_path / "run"} | options)
    assert not (tmp_path / "run").exists()


def test_heads_on_another_toolkits_network_are_refused(data: Path, tmp_path: Path):
    with pytest.raises(FullyconvError, match=r"SEG-T012.*--also needs score layers .* such as fcn8s-resnet18"):
        train(data, also=(f"other={data}",), model=LRASPP, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "switches",
    [
        {"recipe": "heavy", "augment": "paper", "sampling": 0.5, "balance": "median", "upscore": "all"},
        {"recipe": "cvpr15", "augment": "none", "sampling": 0.25, "balance": "log", "tune": "score"},
        {"recipe": "cvpr15", "augment": "default", "crop": (32, 32), "upscore": "learned", "reduction": "sum"},
    ],
)
def test_every_switch_can_be_thrown(data: Path, tmp_path: Path, switches: dict[str, object]):
    settings = {"batch": 2, "steps": 2, "validations": 1, "workers": 0, "report": False}
    if switches.get("tune") == "score":
        start = train(data, model=TINY, out=tmp_path / "start", **settings)
        settings["pretrained"] = str(start.run)
    run = train(data, model=TINY, out=tmp_path / "run", **settings, **switches).run
    plan = json.loads((run / "plan.json").read_text())
    kept = {**plan["recipe"], **plan["architecture"], "reduction": plan["reduction"]}
    assert {name: kept[name] for name in switches if name in kept} == {k: v for k, v in switches.items() if k in kept}
    jitter = plan["recipe"]["augmentation"]
    assert (jitter and jitter["shift"], jitter and jitter["crop"]) == {
        "paper": (32, None),
        "none": (None, None),
        "default": (0, [32, 32]),
    }[switches["augment"]]
    train(data, out=run, resume=True, workers=0, report=False)  # the plan is read back


def test_dropout_is_element_wise_after_both_hidden_layers(monkeypatch: pytest.MonkeyPatch):
    make_thin(monkeypatch, "vgg16")
    trunk = trunk_of("vgg16", [32]).train()
    for name in ("drop6", "drop7"):
        dropout = trunk.get_submodule(name)
        given = torch.rand(2, 512, 7, 7) + 0.1
        dropped = dropout(given)
        kept = dropped > 0
        torch.testing.assert_close(dropped[kept], 2 * given[kept])
        assert abs(kept.float().mean() - 0.5) < 4 * (0.25 / kept.numel()) ** 0.5
        shares = kept.float().mean((2, 3))  # of each channel: never all or nothing, as whole channels would be
        assert ((shares > 0) & (shares < 1)).all()
        assert torch.equal(dropout.eval()(given), given)


class LoudTrunk(nn.Module):
    """Five blocks whose finer maps are as much larger than the coarsest as those of VGG16 are."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 16, 32, 32, 64)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(bands, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(), nn.MaxPool2d(2))
            for bands, width in pairwise(widths)
        )

    def forward(self, image: Tensor) -> Sequence[Tensor]:
        maps = []
        for block in self.blocks:
            image = block(image)
            maps.append(image)
        return [1e4 * maps[2], 1e2 * maps[3], maps[4]]


def test_a_net_trained_at_once_learns_four_images_by_heart():
    random = np.random.default_rng(0)
    target = torch.zeros(4, 1, 64, 64, dtype=torch.int64)
    for mask in target[:, 0]:
        for label in (1, 2, 3):
            top, left = 16 * random.integers(0, 3, 2)
            mask[top : top + 24, left : left + 32] = label
    image = torch.from_numpy(random.random((4, 3, 64, 64), dtype=np.float32)) / 3
    image += torch.stack([target[:, 0] == label for label in (1, 2, 3)], 1) / 2
    trunk = LoudTrunk()
    model = FCN(trunk, trace(trunk), 4, mean=(0.5,) * 3, std=(0.25,) * 3, tap_scales=(1e-4, 1e-2, 1))
    recipe = recipe_for("default", "")
    optimizer = optimizer_of(recipe, parameter_groups(recipe, model))
    objective = Objective(model, "cross_entropy", None, 255)
    for step in range(250):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * learning_rate_factor(recipe, step / 250)
        optimizer.zero_grad()
        (objective(image, target) / target.numel()).sum().backward()
        optimizer.step()
    pred = upsample_argmax(model.eval().scores(image), (64, 64), grid=model.grid)
    assert (pred == target[:, 0]).float().mean() >= 0.99
