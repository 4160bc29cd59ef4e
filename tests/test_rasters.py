"""Rasters: windows are what the whole picture holds there, and label maps lie where their images lie."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fullyconv import images, rasters
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet

rasterio = pytest.importorskip("rasterio", reason="TIFFs by windows need fullyconv[geo]")
zarr = pytest.importorskip("zarr", reason="zarr arrays need fullyconv[geo]")

LABELS = LabelSet(("sky", "road", "car"))
SIZE = (70, 90)
WINDOW = slice(13, 50), slice(20, 81)
PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.1, 0, 500_000, 0, -0.1, 5_000_000)}


def pixels(bands: int, dtype: str = "uint8") -> np.ndarray[Any, Any]:
    random = np.random.default_rng(0)
    if dtype == "float32":
        return random.random((*SIZE, bands), dtype=np.float32)
    return random.integers(0, np.iinfo(dtype).max, (*SIZE, bands), dtype=dtype)


def save_tiff(path: Path, values: np.ndarray[Any, Any], **options: Any) -> Path:
    """Writes a GeoTIFF."""
    height, width, bands = values.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": values.dtype}
    with rasterio.open(path, "w", "GTiff", **{**PLACE, **shape, **options}) as file:
        file.write(np.moveaxis(values, 2, 0))
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"blockysize": 7},
        {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "lzw"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "interleave": "pixel"},
        {"BIGTIFF": "YES", "compress": "zstd"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("bands", "dtype"), [(3, "uint8"), (1, "uint16"), (5, "uint16"), (1, "float32")])
def test_windows_of_a_tiff_hold_what_the_whole_holds(
    bands: int, dtype: str, options: dict[str, Any], tmp_path: Path
) -> None:
    values = pixels(bands, dtype)
    path = save_tiff(tmp_path / "image.tif", values, **options)
    assert rasters.by_windows(path)
    with rasters.opened(path) as raster, rasters.caching(0):
        assert raster.size == SIZE
        assert raster.row_bytes == values[0].nbytes
        window = raster.read(*WINDOW)
        assert np.array_equal(window, values[WINDOW])
        assert np.array_equal(raster.preview(7), values[3:70:7, 3 : 90 // 7 * 7 : 7])
        assert raster.has_data(0, 70) is None
    if options == {}:
        whole = images.read_image(path, channels=bands)
        assert np.array_equal(images.as_tensor(window, channels=bands), whole[:, WINDOW[0], WINDOW[1]])


def test_training_sees_the_colours_that_windows_see(tmp_path: Path) -> None:
    values = pixels(3, "uint16") % 3000  # as sensors of 12 bits give
    path = save_tiff(tmp_path / "image.tif", values, tiled=True, blockxsize=16, blockysize=16, photometric="rgb")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
        file.write_mask(True)
    assert rasters.by_windows(path)
    with rasters.opened(path, bands=3) as raster:
        window = images.as_tensor(raster.read(*WINDOW), channels=3)
    for channels in (3, None):
        assert np.array_equal(images.read_image(path, channels=channels)[:, WINDOW[0], WINDOW[1]], window)
    assert images.pages(path) == 1
    assert images.read_header(path) == images.Header(SIZE, 1, bands=3, alpha=False)


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    indices = pixels(1) % 4
    path = save_tiff(tmp_path / "image.tif", indices, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {index: (10 * index, index, 200, 255) for index in range(4)})
    with rasters.opened(path) as raster:
        assert np.array_equal(raster.read(*WINDOW), np.asarray(Image.open(path).convert("RGB"))[WINDOW])


def test_what_is_no_data_is_black_and_named(tmp_path: Path) -> None:
    values = pixels(3, "float32")
    values[:20, :30] = -9999
    with rasters.opened(save_tiff(tmp_path / "image.tif", values, nodata=-9999)) as raster:
        has_data = raster.has_data(10, 40)
        assert has_data is not None
        assert np.array_equal(has_data, values[10:40, :, 0] != -9999)
        assert np.array_equal(raster.read(*WINDOW), values.clip(0)[WINDOW])
        assert raster.preview(5).min() == 0


def test_alpha_tells_of_no_data_unless_it_is_looked_at(tmp_path: Path) -> None:
    values = pixels(4)
    values[:30, :, 3] = 0
    path = save_tiff(tmp_path / "image.tif", values, photometric="rgb", alpha="yes")
    with rasters.opened(path, bands=3) as raster:
        assert np.array_equal(raster.has_data(0, 70), values[..., 3] != 0)
        assert np.array_equal(raster.read(*WINDOW), (values[..., :3] * (values[..., 3:] != 0))[WINDOW])
    with rasters.opened(path, bands=4) as raster:
        assert raster.has_data(0, 70) is None
        assert np.array_equal(raster.read(*WINDOW), values[WINDOW])


def test_pictures_that_windows_would_change_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasters, "LARGE_PIXELS", 100)
    picture = Image.fromarray(pixels(3))
    picture.save(tmp_path / "plain.tif")
    picture.save(tmp_path / "picture.png")
    turned = Image.Exif()
    turned[images.ORIENTATION] = 6
    picture.save(tmp_path / "turned.tif", exif=turned)
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    picture.convert("1").save(tmp_path / "bits.tif")
    grey = picture.convert("L")
    grey.save(tmp_path / "pages.tif", save_all=True, append_images=[grey, grey])
    assert [path.name for path in sorted(tmp_path.iterdir()) if rasters.by_windows(path)] == ["plain.tif"]
    monkeypatch.setattr(rasters, "LARGE_PIXELS", 10_000)
    assert not rasters.by_windows(tmp_path / "plain.tif")
    assert rasters.by_windows(save_tiff(tmp_path / "small.tif", pixels(3)))


@pytest.mark.parametrize("kept", [0, 7, 100, 10_000])
def test_a_truncated_tiff_is_refused(kept: int, tmp_path: Path) -> None:
    path = save_tiff(tmp_path / "image.tif", pixels(3))
    path.write_bytes(path.read_bytes()[:kept])

    def read() -> None:
        if not rasters.by_windows(path):
            images.read_image(path)
            return
        with rasters.opened(path) as raster:
            raster.read(slice(0, 70), slice(0, 90))

    with pytest.raises(FullyconvError, match=r"SEG-D009.*image\.tif"):
        read()


@pytest.mark.parametrize(
    ("axes", "names"),
    [((0, 1, 2), None), ((2, 0, 1), None), ((2, 0, 1), ("c", "y", "x")), ((0, 1, 2), ("y", "x", "c"))],
)
def test_windows_of_a_zarr_array_hold_what_the_whole_holds(
    axes: tuple[int, ...], names: tuple[str, ...] | None, tmp_path: Path
) -> None:
    values, path = pixels(3, "uint16"), tmp_path / "image.zarr"
    stored = values.transpose(axes)
    array = zarr.create_array(path, shape=stored.shape, chunks=stored.shape, dtype="uint16", dimension_names=names)
    array[:] = stored
    assert rasters.by_windows(path)
    with rasters.opened(path) as raster:
        assert raster.size == SIZE
        assert np.array_equal(raster.read(*WINDOW), values[WINDOW])
        assert np.array_equal(raster.preview(7), values[3:70:7, 3 : 90 // 7 * 7 : 7])


def test_the_finest_of_several_resolutions_is_read(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "image.zarr", mode="w")
    group.create_array("0", shape=(40, 50), dtype="uint8", chunks=(40, 50))[:] = 7
    group.create_array("1", shape=(20, 25), dtype="uint8", chunks=(20, 25))
    with rasters.opened(tmp_path / "image.zarr") as raster:
        assert raster.size == (40, 50)
        assert raster.read(slice(1, 3), slice(0, 5)).tolist() == [[[7]] * 5] * 2


def test_the_first_of_several_images_is_read(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=2).create_group("0")
    group.create_array("0", shape=(40, 50), dtype="uint8", chunks=(40, 50))[:] = 7
    with rasters.opened(tmp_path / "image.zarr") as raster:
        assert raster.size == (40, 50)
        assert raster.read(slice(1, 2), slice(0, 3)).tolist() == [[[7]] * 3]


@pytest.mark.parametrize("dtype", [">u2", "<u4", ">f4"])
def test_a_zarr_array_of_any_byte_order_becomes_an_image(dtype: str, tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4) if "f" in dtype else np.arange(12).reshape(3, 4) * 5000
    zarr.create_array(tmp_path / "image.zarr", shape=(3, 4), dtype=dtype, zarr_format=2)[:] = values
    with rasters.opened(tmp_path / "image.zarr") as raster:
        image = images.as_tensor(raster.read(slice(0, 3), slice(0, 4)), channels=1)
    assert np.allclose(image[0], values if "f" in dtype else values / 65535, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 10, 3), (10,), (2, 3, 4, 5)])
def test_zarr_arrays_that_are_no_images_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "image.zarr", shape=shape, dtype="uint8", chunks=tuple(max(1, n) for n in shape))
    with pytest.raises(FullyconvError, match=r"SEG-D011.*shape"), rasters.opened(tmp_path / "image.zarr"):
        pass


def test_a_damaged_zarr_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    zarr.create_array(path, shape=SIZE, dtype="uint8", chunks=SIZE)[:] = pixels(1)[..., 0]
    (chunk,) = (file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:50])
    with rasters.opened(path) as raster, pytest.raises(FullyconvError, match="SEG-D009"):
        raster.read(*WINDOW)
    (path / "zarr.json").write_text("{")
    with pytest.raises(FullyconvError, match="SEG-D009"), rasters.opened(path):
        pass


def test_a_label_map_lies_where_its_image_lies(tmp_path: Path) -> None:
    image = pixels(3)
    mask = image[..., 0] % 3
    mask[:9] = 255
    tall = np.tile(mask, (20, 15))
    with rasters.opened(save_tiff(tmp_path / "image.tif", np.tile(image, (20, 15, 1)))) as raster:
        raster.write_labels(tmp_path / "mask.tif", lambda first, last: tall[first:last], LABELS)
    with rasterio.open(tmp_path / "mask.tif") as written, rasterio.open(tmp_path / "image.tif") as source:
        assert np.array_equal(written.read(1), tall)
        assert (written.crs, written.transform) == (source.crs, source.transform)
        assert written.nodata == 255
        assert written.colormap(1)[1] == (*LABELS.colors[1], 255)
        assert written.block_shapes == [(512, 512)]
        assert written.compression.name == "deflate"
        assert written.overviews(1) == [2, 4]
        assert json.loads(written.tags()["classes"]) == list(LABELS.names)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["image.tif", "mask.tif"]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999], ids=["first file", "finished file", "end"])
def test_a_disk_that_becomes_full_is_named(share: float, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of files are POSIX's")
    mask = np.random.default_rng(0).integers(0, 3, (600, 600), np.uint8)
    with rasters.opened(save_tiff(tmp_path / "image.tif", mask[..., None])) as raster:
        raster.write_labels(tmp_path / "whole.tif", lambda first, last: mask[first:last], LABELS)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = int(share * (tmp_path / "whole.tif").stat().st_size)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(FullyconvError, match=r"SEG-P007.*mask\.tif cannot be written"):
                raster.write_labels(tmp_path / "mask.tif", lambda first, last: mask[first:last], LABELS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_many_classes_are_written_in_16_bits(tmp_path: Path) -> None:
    labels = LabelSet(tuple(map(str, range(300))))
    mask = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE) % 300
    with rasters.opened(save_tiff(tmp_path / "image.tif", pixels(3))) as raster:
        raster.write_labels(tmp_path / "mask.tif", lambda first, last: mask[first:last], labels)
    with rasterio.open(tmp_path / "mask.tif") as written:
        assert np.array_equal(written.read(1), mask)
        assert written.nodata == 65535


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_control_points_are_kept(tmp_path: Path) -> None:
    corners = [(0, 0), (0, 90), (70, 0), (70, 90)]
    points = [rasterio.control.GroundControlPoint(row, column, column / 10, -row / 10) for row, column in corners]
    path = save_tiff(tmp_path / "image.tif", pixels(3), transform=None, crs=None)
    with rasterio.open(path, "r+") as file:
        file.gcps = points, rasterio.crs.CRS.from_epsg(4326)
    with rasters.opened(path) as raster:
        raster.write_labels(tmp_path / "mask.tif", lambda first, last: np.zeros((last - first, 90), np.uint8), LABELS)
    with rasterio.open(tmp_path / "mask.tif") as written:
        assert [(point.row, point.col, point.x) for point in written.gcps[0]] == [
            (point.row, point.col, point.x) for point in points
        ]


def test_a_label_map_beside_a_zarr_array_has_its_attributes(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "image.zarr", shape=(*SIZE, 3), dtype="uint8", chunks=(32, 32, 3), attributes={"place": "Graz"}
    )
    mask = pixels(1)[..., 0] % 3
    with rasters.opened(tmp_path / "image.zarr") as raster:
        raster.write_labels(tmp_path / "mask.zarr", lambda first, last: mask[first:last], LABELS)
    written = zarr.open_array(tmp_path / "mask.zarr", mode="r")
    assert np.array_equal(written[:], mask)
    assert written.metadata.zarr_format == 3
    assert written.attrs["place"] == "Graz"
    assert LabelSet.from_dict(written.attrs["labels"]) == LABELS


def test_without_the_packages_large_images_are_refused_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_tiff(tmp_path / "image.tif", pixels(3))
    (tmp_path / "image.zarr").mkdir()
    (tmp_path / "image.zarr" / "zarr.json").touch()
    for package in ("rasterio", "zarr"):
        monkeypatch.setitem(sys.modules, package, None)
    assert not rasters.by_windows(path)
    monkeypatch.setattr(rasters, "LARGE_PIXELS", 100)
    with pytest.raises(FullyconvError, match=r"SEG-D024.*fullyconv\[geo\]"):
        rasters.by_windows(path)
    with pytest.raises(FullyconvError, match=r"SEG-D024.*fullyconv\[geo\]"), rasters.opened(tmp_path / "image.zarr"):
        pass
