"""Tiles: what they give is what the whole gives, within the memory that was promised."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from thin import make_thin
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid, reach
from fullyconv.kernels import upsample_argmax
from fullyconv.models import FCN, create
from fullyconv.prediction import memory, tiles
from fullyconv.prediction.tiles import chosen_tile, label_rows, mask_rows, plan, tiled_scores, whole_scores
from fullyconv.runtimes.engine import Engine

TINY, GLOBAL = "fcn8s-test_resnet", "fcn8s-test_efficientnet"
ROUNDING_DOWN = "fcn8s-test_convnext"  # 65 to 71 rows of pixels give 8 of cells


def network(name: str, **options: object) -> FCN:
    model = create(name, 3, **options)  # type: ignore[arg-type]
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    return model.eval()


def windows_of(image: Tensor) -> tiles.Read:
    return lambda rows, columns: image[:, rows, columns]


@pytest.mark.parametrize("name", [TINY, ROUNDING_DOWN])
@pytest.mark.parametrize(
    ("size", "tile"),
    [
        ((365, 290), 96),
        ((71, 67), 32),
        ((200, 90), 32),
        ((1, 1), 32),
        ((33, 301), 64),
        ((301, 33), 64),
        ((95, 97), 96),
        ((96, 192), 96),
    ],
)
def test_tiles_give_the_scores_and_labels_of_the_whole(name: str, size: tuple[int, int], tile: int) -> None:
    engine, image = Engine(network(name)), torch.rand(3, *size)
    cut = plan(engine.model, size, tile)
    with torch.inference_mode():
        whole, tiled = whole_scores(engine, image), tiled_scores(engine, image, tile)
        labels = np.concatenate(list(label_rows(cut, engine, windows_of(image))))
    assert torch.allclose(tiled, whole, atol=1e-5 * float(whole.abs().max()))
    assert np.array_equal(labels, upsample_argmax(tiled, size, grid=engine.model.grid)[0].numpy())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (TINY, {"alignment": "centred"}),
        (TINY, {"upscore": "all"}),
        ("fcn32s-test_resnet", {}),
        ("fcn4s-test_resnet", {}),
        ("fcn8s-vgg16", {}),
        ("fcn8s-vgg16", {"geometry": "caffe"}),
        ("fcn32s-alexnet", {"geometry": "caffe"}),
    ],
)
def test_tiles_give_the_whole_on_every_grid(
    name: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_thin(monkeypatch, "vgg16", "alexnet")
    engine, image = Engine(network(name, **options)), torch.rand(3, 610, 45)
    tile = 64 if "resnet" in name else 128
    with torch.inference_mode():
        whole, tiled = whole_scores(engine, image), tiled_scores(engine, image, tile)
        (full,) = label_rows(plan(engine.model, (610, 45), 640), engine, windows_of(image))
        labels = np.concatenate(list(label_rows(plan(engine.model, (610, 45), tile), engine, windows_of(image))))
    assert torch.allclose(tiled, whole, atol=1e-5 * float(whole.abs().max()))
    assert (labels != full).mean() < 1e-4


@pytest.mark.parametrize(("name", "rows"), [(TINY, 200), (GLOBAL, 200), (ROUNDING_DOWN, 199), (ROUNDING_DOWN, 193)])
def test_labels_from_any_row_on_are_those_of_all(name: str, rows: int) -> None:
    engine, image = Engine(network(name)), torch.rand(3, rows, 70)
    cut = plan(engine.model, (rows, 70), 64)
    with torch.inference_mode():
        labels = np.concatenate(list(label_rows(cut, engine, windows_of(image))))
        assert len(labels) == rows
        for first in (1, 63, 64, 68, 130, rows - 1):
            rest = np.concatenate(list(label_rows(cut, engine, windows_of(image), first_row=first)))
            assert np.array_equal(rest, labels[first:])


@pytest.mark.parametrize("options", [{}, {"alignment": "centred"}, {"upscore": "all"}])
def test_a_block_sees_no_pixel_beyond_its_reach(options: dict[str, str]) -> None:
    model, image = network(TINY, **options), torch.rand(1, 3, 32, 640, requires_grad=True)
    inner = plan(model, (32, 640), 64).columns[5]
    fine = int(model.grid.stride)
    model.scores(image)[..., inner.inner_start // fine : inner.inner_stop // fine].sum().backward()
    (seen,) = image.grad.abs().sum((0, 1, 2)).nonzero(as_tuple=True)  # type: ignore[union-attr]
    assert inner.start <= seen.min() < inner.inner_start
    assert inner.inner_stop < seen.max() < inner.stop


def test_the_reach_of_a_resnet18_and_of_a_vgg16_is_that_counted_by_hand() -> None:
    # Cells at 0, 8, ... and 0, 32, ...: a block's first cell sees 217 pixels before it, the next block's first 217 on.
    resnet18 = Grid(Fraction(8), Fraction(0), Fraction(99)), Grid(Fraction(32), Fraction(0), Fraction(435))
    assert reach(resnet18) == (217, 218)
    # Cells at 3.5, 11.5, ... and 15.5, 47.5, ...: the first lies between -16.5 and 15.5, and -16.5 - 201.5 = -218.
    vgg16 = Grid(Fraction(8), Fraction(7, 2), Fraction(44)), Grid(Fraction(32), Fraction(31, 2), Fraction(404))
    assert reach(vgg16) == (218, 218)


@pytest.mark.parametrize("size", [(200, 70), (64, 64), (65, 300), (31, 129)])
@pytest.mark.parametrize("tile", [32, 64, 128])
def test_blended_tiles_count_one_in_all(size: tuple[int, int], tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(network(GLOBAL))
    expected = engine.scores(torch.zeros(1, 3, *size)).shape
    monkeypatch.setattr(engine, "scores", lambda image: torch.ones(1, 3, *(math.ceil(n / 8) for n in image.shape[2:])))
    blended = tiled_scores(engine, torch.zeros(3, *size), tile)
    assert blended.shape == expected
    assert torch.allclose(blended, torch.ones(()))


def test_blended_tiles_show_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, brightness = Engine(network(GLOBAL)), iter(range(100))
    monkeypatch.setattr(
        engine,
        "scores",
        lambda image: torch.full((1, 3, *(n // 8 for n in image.shape[2:])), next(brightness) % 2 * 1.0),
    )
    blended = tiled_scores(engine, torch.zeros(3, 512, 768), 256)
    assert blended.max() - blended.min() == 1
    for axis in (2, 3):  # 8 cells from one tile to the next
        assert blended.diff(dim=axis).abs().max() < 0.25


def test_scores_that_are_no_numbers_are_refused_with_their_place() -> None:
    model = network(TINY)
    first, *_, last = model.score_layers.values()
    nn.init.constant_(first.bias, float("inf"))
    nn.init.constant_(last.bias, -float("inf"))
    with pytest.raises(FullyconvError, match=r"SEG-P005.*NaN.*rows 0 to"):
        list(mask_rows(Engine(model), windows_of(torch.rand(3, 40, 40)), (40, 40), 64))


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),  # oneDNN's
        Exception("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"),  # ONNX Runtime's own
    ],
)
def test_tiles_are_halved_where_memory_runs_out(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, image = Engine(network(TINY)), torch.rand(3, 300, 100)
    compute, computed = engine.scores, []
    (expected,) = mask_rows(engine, windows_of(image), (300, 100), 320)

    def scores(window: Tensor) -> Tensor:
        if computed and window.shape[2] > 250:  # after the first row of tiles
            raise fault
        computed.append(window.shape)
        return compute(window)

    monkeypatch.setattr(engine, "scores", scores)
    labels = np.concatenate(list(mask_rows(engine, windows_of(image), (300, 100), 128)))
    assert (labels != expected).mean() < 1e-4
    assert "going on with tiles of 64" in capsys.readouterr().err
    monkeypatch.setattr(engine, "scores", lambda window: (_ for _ in ()).throw(fault))
    with pytest.raises(FullyconvError, match=r"SEG-P006.*tiles of 32"):
        list(mask_rows(engine, windows_of(image), (300, 100), 128))


def test_other_faults_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(network(TINY))
    monkeypatch.setattr(engine, "scores", lambda window: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(mask_rows(engine, windows_of(torch.rand(3, 40, 40)), (40, 40), 64))


def test_the_tile_is_as_large_as_half_of_the_free_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "WHOLE_IMAGE_PIXELS", 10_000)
    model, size = network(TINY), (500, 300)
    sides = []
    for free in (0, 2 * 10**7, 10**12):
        monkeypatch.setattr(tiles, "free_memory", lambda device, free=free: free)
        sides.append(chosen_tile(model, size, "auto"))
        taken = plan(model, size, sides[-1]).memory(model)
        assert sides[-1] % 32 == 0
        assert taken <= free // 2 or sides[-1] == 32
    assert sides == sorted(sides)
    assert sides[0] == 32 < sides[1] < 500 <= sides[2]
    assert chosen_tile(model, (100, 100), "auto") >= 100
    assert chosen_tile(model, size, "none") >= 500
    assert chosen_tile(model, size, 96) == 96


def test_the_memory_of_scores_is_that_of_the_maps_that_live_at_once() -> None:
    def doubled_twice(image: Tensor) -> Tensor:
        double = image * 2
        del image  # whose caller still holds it
        return double * 2

    model = network(TINY)
    model.scores = doubled_twice  # type: ignore[method-assign,assignment]
    # Of each pixel live 3 numbers of 4 bytes in the image, in its double, and in the double of that.
    assert memory.memory_of_scores(model, (10, 20)) == memory.OWN_SHARE * 3 * 12 * 200


def test_limits_of_control_groups_bound_the_free_memory(tmp_path: Path) -> None:
    members, mount = tmp_path / "cgroup", tmp_path / "fs"
    one, two = mount / "memory" / "job", mount / "session"
    for folder in (one, two):
        folder.mkdir(parents=True)
    members.write_text("5:memory:/job\n4:cpu,cpuacct:/job\n0::/session\n")
    (one / "memory.limit_in_bytes").write_text("1000\n")
    (one / "memory.usage_in_bytes").write_text("700\n")
    (one / "memory.stat").write_text("inactive_file 40\ntotal_inactive_file 50\n")
    (two / "memory.max").write_text("max\n")
    assert list(memory._free_in_cgroups(members, mount)) == [350]
    (two / "memory.max").write_text("2000\n")
    (two / "memory.current").write_text("100\n")
    (two / "memory.stat").write_text("inactive_file 7\n")
    assert list(memory._free_in_cgroups(members, mount)) == [350, 1907]
    assert list(memory._free_in_cgroups(tmp_path / "absent", mount)) == []
    members.write_text("0::/session/step/task\n")
    (two / "step" / "task").mkdir(parents=True)
    assert list(memory._free_in_cgroups(members, mount)) == [1907]
