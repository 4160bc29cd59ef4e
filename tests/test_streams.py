"""Several kinds of pictures of one scene: early fusion in the first layer, late fusion of scores."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scenes import save
from torch import nn

from fullyconv import cli
from fullyconv.errors import FullyconvError
from fullyconv.models import FCN, LateFusion, create, start_from
from fullyconv.models.heads import head_of
from fullyconv.prediction import load
from fullyconv.prediction.tiles import tiled_scores, whole_scores
from fullyconv.runtimes.engine import Engine

TINY = "fcn8s-test_resnet"


def tower(channels: int = 3, name: str = TINY) -> FCN:
    model = create(name, 4, channels=channels)
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.1)
    return model.eval()


def weights_of(model: nn.Module, file: Path) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}, file)
    return file


@pytest.mark.parametrize("name", ["fcn8s-test_resnet", "fcn32s-googlenet"])
def test_early_fusion_starts_from_the_kernels_for_colors(name, tmp_path):
    """Checklist E8: the kernels for red, green and blue stay, the fourth band's is their mean, the bias is copied."""
    colors = create(name, 4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    model = create(name, 4, channels=4, mean=(0.5, 0.5, 0.5, 0.9), std=(0.25, 0.25, 0.25, 0.8))
    start_from(model, weights_of(colors, tmp_path / "colors.safetensors"))
    before, after = colors.state_dict(), model.state_dict()
    first = next(key for key in before if before[key].ndim == 4 and "trunk" in key and before[key].shape[1] == 3)
    assert torch.equal(after[first][:, :3], before[first])
    assert torch.equal(after[first][:, 3], before[first].mean(1))
    assert all(torch.equal(after[key], before[key]) for key in before if key not in (first, "mean", "std"))
    assert after["mean"].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.9])
    # The source's division of colours is 0.6 / 0.226 times ImageNet's.
    assert after["std"].flatten().tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8 * 0.6 / 0.226])


def test_early_fusion_from_the_hub_keeps_the_kernels_for_colors(monkeypatch):
    made, made_by_timm = [], timm.create_model

    def from_hub(*names, pretrained=False, **options):
        network = made_by_timm(*names, **options)
        made.extend([network.conv1[0].weight.clone()] if pretrained else [])
        return network

    monkeypatch.setattr(timm, "create_model", from_hub)
    wide = create(TINY, 4, channels=6, pretrained=True).trunk.get_submodule("conv1.0").weight
    (colors,) = made
    assert torch.equal(wide[:, :3], colors)
    assert torch.equal(wide[:, 3:], colors.mean(1, keepdim=True).expand(-1, 3, -1, -1))


def test_late_fusion_is_the_mean_of_the_towers_scores():
    """Checklist E9."""
    first, second = tower(), tower(1)
    fused = LateFusion([first, second])
    color, depth = torch.rand(2, 3, 50, 70), torch.rand(2, 1, 50, 70)
    expected = 0.5 * first.scores(color) + 0.5 * second.scores(depth)
    assert torch.allclose(fused.scores(torch.cat((color, depth), 1)), expected, rtol=0, atol=1e-6)
    for layer in second.score_layers.values():
        nn.init.zeros_(layer.weight)
    assert torch.allclose(fused(torch.cat((color, depth), 1)), 0.5 * first(color), rtol=0, atol=1e-6)


def test_late_fusion_weighs_its_towers_and_keeps_the_weights(tmp_path):
    first, second = tower(), tower()
    fused = LateFusion([first, second], weights=(0.8, 0.2))
    image = torch.rand(1, 6, 40, 40)
    expected = 0.8 * first.scores(image[:, :3]) + 0.2 * second.scores(image[:, 3:])
    assert torch.allclose(fused.scores(image), expected, rtol=0, atol=1e-6)
    again = create(TINY, 4, channels=6, streams=(3, 3)).eval()
    again.load_state_dict(fused.state_dict())
    assert torch.equal(again(image), fused(image))


def test_each_tower_takes_the_logarithms_of_its_own_bands():
    fused = create(TINY, 4, channels=4, streams=(3, 1), log_bands=[3])
    color, depth = fused.towers
    assert color.log_bands is None
    assert depth.log_bands.flatten().tolist() == [True]


def test_late_fusion_trains_all_towers():
    fused = LateFusion([tower(), tower(1)])
    fused(torch.rand(1, 4, 40, 40)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in fused.parameters())


@pytest.mark.parametrize("options", [{"upscore": "all"}, {}])
def test_late_fusion_offers_what_a_network_offers(options):
    fused = create(TINY, 5, channels=4, streams=[3, 1], mean=[0.1, 0.2, 0.3, 0.4], std=[1.0, 2.0, 3.0, 4.0], **options)
    alone = create(TINY, 5, **options)
    assert isinstance(fused, LateFusion)
    assert (fused.grid, fused.grids, fused.coarsest) == (alone.grid, alone.grids, alone.coarsest)
    assert fused.mean.shape == fused.std.shape == (1, 4, 1, 1)
    assert fused.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert fused.std.flatten().tolist() == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert fused.num_classes == 5
    assert fused(torch.rand(1, 4, 1, 45)).shape == (1, 5, 1, 45)


def test_late_fusion_predicts_tiles_as_the_whole():
    fused, image = LateFusion([tower(), tower(1)]).eval(), torch.rand(4, 300, 170)
    with torch.inference_mode():
        whole, tiled = whole_scores(Engine(fused), image), tiled_scores(Engine(fused), image, 96)
    assert torch.allclose(tiled, whole, atol=1e-4 * float(whole.abs().max()))


def test_a_head_of_a_late_fusion_is_a_network_on_its_block_of_the_scores():
    fused, image = LateFusion([tower(), tower(1)]).eval(), torch.rand(1, 4, 50, 40)
    assert torch.allclose(head_of(fused, 1, 2)(image), fused(image)[:, 1:3], atol=1e-6)


def test_towers_of_unlike_grids_are_not_added():
    with pytest.raises(ValueError, match="same classes and grids"):
        LateFusion([tower(), tower(3, "fcn16s-test_resnet")])


@pytest.mark.parametrize("streams", [(3, 3), (4,), (0, 4)])
def test_streams_share_out_all_bands(streams):
    with pytest.raises(FullyconvError, match=f"SEG-M041.*4 bands.*got {','.join(map(str, streams))};"):
        create(TINY, 4, channels=4, streams=streams)


def test_each_tower_starts_from_a_file_of_its_own(tmp_path):
    first, second = tower(), tower()
    files = [weights_of(model, tmp_path / f"{number}.safetensors") for number, model in enumerate((first, second))]
    fused = create(TINY, 4, channels=6, streams=(3, 3)).eval()
    taken = start_from(fused, *files)
    assert taken.missing == ()
    assert taken.kept[0].startswith("towers.0.")
    image = torch.rand(1, 6, 40, 40)
    assert torch.equal(fused(image), LateFusion([first, second])(image))
    start_from(fused, files[0])
    assert torch.equal(fused(image), LateFusion([first, first])(image))
    again = create(TINY, 4, channels=6, streams=(3, 3)).eval()
    start_from(again, weights_of(fused, tmp_path / "fused.safetensors"))
    assert torch.equal(again(image), fused(image))
    for mixed in ((tmp_path / "fused.safetensors", files[1]), (files[0], tmp_path / "fused.safetensors")):
        with pytest.raises(FullyconvError, match=r"SEG-M041.*fused\.safetensors holds all streams.*alone"):
            start_from(fused, *mixed)
    with pytest.raises(FullyconvError, match=r"SEG-M041.*3 weight files.*2 streams"):
        start_from(fused, *files, files[0])
    with pytest.raises(FullyconvError, match=r"SEG-M041.*2 weight files.*1 stream;"):
        start_from(first, *files)


@pytest.mark.parametrize("options", [[], ["--streams", "3,1"]])
def test_colors_and_depth_are_fused_by_commands(data_root, tmp_path, options):
    scenes = data_root / "ycb_video_sample" / "data" / "0000"
    data = f"folder:{scenes}?images={{name}}-color.png&masks={{name}}-label.png&more={{name}}-depth.png"
    run, name = str(tmp_path / "run"), "fcn16s-test_resnet"
    short = ["--model", name, "--steps", "2", "--batch", "2", "--crop", "64,64", "--workers", "0", "--no-report"]
    assert cli.main(["train", data, "--out", run, *short, *options]) == 0
    segmenter = load(run)
    assert segmenter.bands == (3, 1)
    assert isinstance(segmenter.model, LateFusion) == bool(options)
    mean = segmenter.model.mean.flatten().tolist()
    assert mean[:3] == pytest.approx([0.485, 0.456, 0.406])
    depth = [np.array(Image.open(path)).astype(float) / 65535 for path in scenes.glob("*-depth.png")]
    assert mean[3] == pytest.approx(np.mean(depth), rel=0.2)  # of the training split's pixels, every 17th
    pictures = [str(scenes / f"{{name}}-{kind}.png") for kind in ("color", "depth")]
    assert cli.main(["predict", run, pictures[0], "--more", pictures[1], "--out", str(tmp_path / "masks")]) == 0
    first, further = (picture.replace("{name}", "000001") for picture in pictures)
    drawn = np.array(Image.open(tmp_path / "masks" / "000001-color.png"))
    assert np.array_equal(drawn, segmenter(first, more=[further]).mask)
    assert cli.main(["predict", run, first, "--out", str(tmp_path / "more")]) == 2


def test_towers_start_from_runs_by_command(tmp_path):
    random = np.random.default_rng(0)
    for number in range(4):
        for kind, pixels in (
            ("color", random.integers(0, 255, (32, 48, 3), np.uint8)),
            ("depth", random.integers(0, 9000, (32, 48), np.uint16)),
            ("truth", random.integers(0, 2, (32, 48), np.uint8)),
        ):
            save(tmp_path / "data" / kind / f"{number}.png", pixels)
    short = ["--model", TINY, "--steps", "1", "--batch", "2", "--workers", "0", "--validations", "1", "--no-report"]
    data = f"folder:{tmp_path / 'data'}?masks=truth/{{name}}.png&images="
    runs = [str(tmp_path / name) for name in ("color-run", "depth-run", "fused")]
    for run, kind in zip(runs, ("color", "depth"), strict=False):
        assert cli.main(["train", data + kind + "/{name}.png", "--out", run, *short]) == 0
    scenes = data + "color/{name}.png&more=depth/{name}.png"
    frozen = ["--streams", "3,1", "--pretrained", ",".join(runs[:2]), "--lr", "0", "--ema", "0"]
    assert cli.main(["train", scenes, "--out", runs[2], *short, *frozen]) == 0
    for number, run in enumerate(runs[:2]):
        assert torch.equal(
            load(runs[2]).model.towers[number].score_layers["stride8"].weight,
            load(run).model.score_layers["stride8"].weight,
        )
