"""Images by windows, from file to file: the whole's result, whatever stops the program on the way."""

import errno
import json
import os
import shutil
import time
from collections import namedtuple
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fullyconv import cli, rasters, timing
from fullyconv.errors import FullyconvError
from fullyconv.images import image_size
from fullyconv.labels import LabelSet
from fullyconv.models import create
from fullyconv.prediction import Segmenter, predict_files, streaming

rasterio = pytest.importorskip("rasterio", reason="TIFFs by windows need fullyconv[geo]")
zarr = pytest.importorskip("zarr", reason="zarr arrays need fullyconv[geo]")

LABELS = LabelSet(("sky", "road", "car"))
ARCHITECTURE = {"name": "fcn8s-test_resnet", "num_classes": 3}
SIZE = (230, 90)
PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.1, 0, 500_000, 0, -0.1, 5_000_000)}


def segmenter_of(seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    model = create(**ARCHITECTURE)  # type: ignore[arg-type]
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    return Segmenter(model.eval(), LABELS, ARCHITECTURE)


@pytest.fixture
def segmenter() -> Segmenter:
    return segmenter_of()


@pytest.fixture
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(1, 256, (*SIZE, 3), dtype=np.uint8)


def save_tiff(path: Path, values: np.ndarray[Any, Any], **options: Any) -> Path:
    """Writes a GeoTIFF."""
    height, width, bands = values.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": values.dtype}
    with rasterio.open(path, "w", "GTiff", **{**PLACE, **shape, **options}) as file:
        file.write(np.moveaxis(values, 2, 0))
    return path


@pytest.fixture
def image(tmp_path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    return save_tiff(tmp_path / "field.tif", pixels)


def labels_in(path: Path) -> np.ndarray[Any, Any]:
    with rasterio.open(path) as file:
        found: np.ndarray[Any, Any] = file.read(1)
    return found


def stop_after(segmenter: Segmenter, windows: int, fault: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets a segmenter fail after so many windows; gives the list that counts them."""
    compute, computed = segmenter.engine.scores, []

    def scores(window: Tensor) -> Tensor:
        if len(computed) == windows:
            raise fault
        computed.append(window.shape[2])
        return compute(window)

    monkeypatch.setattr(segmenter.engine, "scores", scores)
    return computed


def test_a_geotiff_gives_a_geotiff_of_the_whole_images_labels(
    segmenter: Segmenter, image: Path, pixels: np.ndarray[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter.save(tmp_path / "model")
    words = ["predict", str(tmp_path / "model"), str(image), "--out", str(tmp_path / "out"), "--tile", "64", "--json"]
    assert cli.main(words) == 0
    (output,) = json.loads(capsys.readouterr().out)["outputs"]
    assert output.keys() == {"input", "mask", "overlay", "seconds"}
    assert Path(output["mask"]) == tmp_path / "out" / "field.tif"
    assert (labels_in(tmp_path / "out" / "field.tif") != segmenter(pixels, tile="none").mask).mean() < 1e-4
    with rasterio.open(output["mask"]) as mask, rasterio.open(image) as source:
        assert (mask.crs, mask.transform) == (source.crs, source.transform)
    assert image_size(output["overlay"])[0] >= SIZE[0]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["field.tif", "field_overlay.png"]


def test_a_zarr_array_gives_a_zarr_array(segmenter: Segmenter, pixels: np.ndarray[Any, Any], tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in" / "field.zarr", shape=pixels.shape, dtype="uint8", chunks=(64, 64, 3))[:] = pixels
    (output,) = predict_files(segmenter, [str(tmp_path / "in")], out=tmp_path / "out", tile=64).outputs
    assert (zarr.open_array(output["mask"], mode="r")[:] != segmenter(pixels, tile="none").mask).mean() < 1e-4


def test_what_is_no_data_is_ignored(segmenter: Segmenter, pixels: np.ndarray[Any, Any], tmp_path: Path) -> None:
    pixels[100:140, :30] = 0
    image = save_tiff(tmp_path / "field.tif", pixels, nodata=0)
    predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)
    mask = labels_in(tmp_path / "out" / "field.tif")
    assert np.array_equal(mask == 255, (pixels == 0).all(2))


def test_pictures_of_one_scene_are_read_together(pixels: np.ndarray[Any, Any], tmp_path: Path) -> None:
    architecture = {**ARCHITECTURE, "channels": 4}
    model = create(**architecture).eval()  # type: ignore[arg-type]
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    segmenter = Segmenter(model, LABELS, architecture, bands=(3, 1))
    depth = np.random.default_rng(1).integers(0, 65536, (*SIZE, 1), dtype=np.uint16)
    save_tiff(tmp_path / "field.tif", pixels)
    save_tiff(tmp_path / "depth.tif", depth)
    more = ["{folder}/depth.tif"]
    predict_files(segmenter, [str(tmp_path / "field.tif")], out=tmp_path / "out", more=more, tile=64)
    expected = segmenter(pixels, more=[depth], tile="none").mask
    assert (labels_in(tmp_path / "out" / "field.tif") != expected).mean() < 1e-4
    with pytest.raises(FullyconvError, match=r"SEG-D030.*got 1"):
        predict_files(segmenter, [str(tmp_path / "field.tif")], out=tmp_path / "alone")
    save_tiff(tmp_path / "depth.tif", depth[1:])
    with pytest.raises(FullyconvError, match=r"SEG-D030.*90x230.*90x229"):
        predict_files(segmenter, [str(tmp_path / "field.tif")], out=tmp_path / "other", more=more)


def test_killed_half_way_it_goes_on_with_the_same_result(
    segmenter: Segmenter, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_files(segmenter, [str(image)], out=tmp_path / "whole", tile=64)
    with monkeypatch.context() as patch:
        stop_after(segmenter, 5, SystemExit(9), patch)
        with pytest.raises(SystemExit):
            predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        ".unfinished.json",
        "field.tif.part",
        "field.tif.part.json",
    ]
    with (tmp_path / "out" / "field.tif.part").open("ab") as file:
        file.write(b"rows whose state did not come to the disk")
    with monkeypatch.context() as patch:
        computed = stop_after(segmenter, 100, SystemExit(), patch)
        predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)
    assert len(computed) == 6  # of 4 rows of 2 tiles each, all but the first
    assert np.array_equal(labels_in(tmp_path / "out" / "field.tif"), labels_in(tmp_path / "whole" / "field.tif"))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["field.tif", "field_overlay.png"]


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_stopped_at_the_very_end_it_ends(
    suffix: str, segmenter: Segmenter, pixels: np.ndarray[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / f"field{suffix}"
    if suffix == ".tif":
        save_tiff(image, pixels)
    else:
        zarr.create_array(image, shape=pixels.shape, dtype="uint8", chunks=(64, 64, 3))[:] = pixels
    with monkeypatch.context() as patch:
        patch.setattr(streaming.Part, "remove", lambda part: (_ for _ in ()).throw(SystemExit()))
        with pytest.raises(SystemExit):
            predict_files(segmenter, [str(image)], out=tmp_path / "out")
    predict_files(segmenter, [str(image)], out=tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [image.name, "field_overlay.png"]


def test_images_that_are_done_are_not_done_again(
    segmenter: Segmenter, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = shutil.copy(image, tmp_path / "meadow.tif")
    inputs = [str(image), str(second)]
    with monkeypatch.context() as patch:
        stop_after(segmenter, 13, SystemExit(), patch)
        with pytest.raises(SystemExit):
            predict_files(segmenter, inputs, out=tmp_path / "out", tile=64)
    with monkeypatch.context() as patch:
        computed = stop_after(segmenter, 100, SystemExit(), patch)
        outputs = predict_files(segmenter, inputs, out=tmp_path / "out", tile=64).outputs
    assert len(computed) < 8
    assert [Path(output["mask"]).name for output in outputs] == ["field.tif", "meadow.tif"]
    with pytest.raises(FullyconvError, match="SEG-P003"):
        predict_files(segmenter, inputs, out=tmp_path / "out", tile=64)


def test_who_stops_it_is_told_how_to_go_on(
    segmenter: Segmenter, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(segmenter, 5, KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at row \d+ of 230.*same command goes on"):
        predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)


def test_what_was_begun_otherwise_is_not_gone_on_with(
    segmenter: Segmenter, image: Path, pixels: np.ndarray[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_after(segmenter, 5, SystemExit(), patch)
        with pytest.raises(SystemExit):
            predict_files(segmenter, [str(image)], out=out, tile=64)
    kept = (out / "field.tif.part").read_bytes()
    with pytest.raises(FullyconvError, match=r"SEG-P008.*with --tile 64"):
        predict_files(segmenter, [str(image)], out=out, tile=96)
    other = Segmenter(segmenter.model, LABELS, ARCHITECTURE)
    other.engine.precision = "bf16"
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another precision"):
        predict_files(other, [str(image)], out=out, tile=64)
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another model"):
        predict_files(segmenter_of(1), [str(image)], out=out, tile=64)
    save_tiff(image, pixels[:200])
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another image"):
        predict_files(segmenter, [str(image)], out=out, tile=64)
    assert (out / "field.tif.part").read_bytes() == kept


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_before_or_when_it_is_full(
    segmenter: Segmenter, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    Usage = namedtuple("Usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Usage(1000))
        with pytest.raises(FullyconvError, match=r"SEG-P007.*needs"):
            predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)
    synced = []

    def sync(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        with pytest.raises(FullyconvError, match=r"SEG-P007.* of 230 rows are safe"):
            predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)
    assert not (tmp_path / "out" / "field.tif").exists()
    predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)
    predict_files(segmenter, [str(image)], out=tmp_path / "whole", tile=64)
    assert np.array_equal(labels_in(tmp_path / "out" / "field.tif"), labels_in(tmp_path / "whole" / "field.tif"))


def test_rows_draft_and_finished_file_must_have_room_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = streaming.Part(tmp_path / "mask.tif.part", (300, 200), np.dtype(np.uint8), rows=100)
    needed = 200 * 200 + 60_000 // 2 + 60_000 // 2 * 4 // 3 + 60_000 // 2 // 3  # rows, draft, finished file, overviews
    for free in (needed - 1, needed):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: namedtuple("Usage", "free")(free))
        with pytest.raises(FullyconvError, match="SEG-P007") if free < needed else nullcontext():
            part.refuse_full_disk(rasters.Tiff.room)


def test_the_time_that_is_told_is_that_of_the_accelerator(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TRIAL_SIDE", 32)
    monkeypatch.setattr(timing, "_wait", lambda: time.sleep(0.2))
    assert streaming._seconds_per_pixel(segmenter) * 32**2 > 0.2


def test_a_truncated_tiff_leaves_nothing_that_looks_whole(segmenter: Segmenter, image: Path, tmp_path: Path) -> None:
    image.write_bytes(image.read_bytes()[:20_000])
    with pytest.raises(FullyconvError, match=r"SEG-D009.*field\.tif"):
        predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)
    assert not list((tmp_path / "out").glob("*.tif"))


def test_values_out_of_range_are_refused_with_the_file(segmenter: Segmenter, tmp_path: Path) -> None:
    image = save_tiff(tmp_path / "field.tif", np.full((*SIZE, 3), np.nan, np.float32))
    with pytest.raises(FullyconvError, match=r"SEG-D011.*field\.tif holds values from nan"):
        predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=64)


def test_a_large_image_is_told_of_before_it_is_begun(
    segmenter: Segmenter,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(streaming, "WHOLE_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(streaming, "TRIAL_SIDE", 64)
    predict_files(segmenter, [str(image)], out=tmp_path / "out", tile=32)
    told = capsys.readouterr().err
    assert "90 x 230 pixels in 3 x 8 tiles of 32, computing" in told
    assert "GB of memory in all" in told
    assert "--tile auto is quicker" in told
