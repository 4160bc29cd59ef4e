import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv.errors import FAULTS, FullyconvError
from fullyconv.images import (
    as_tensor,
    image_size,
    palette_colors,
    read_header,
    read_image,
    read_mask,
    read_raw_mask,
    stack,
    write_mask,
    write_picture,
)
from fullyconv.labels import LabelSet

LETTER = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]], np.uint8)  # an F: every turn of it looks different
INVERSE = {tag: {6: 8, 8: 6}.get(tag, tag) for tag in range(1, 9)}
BINARY = LabelSet(("background", "foreground"))


@pytest.fixture
def tifffile() -> Any:
    """Another library's writer of TIFFs, where ours can read them all."""
    pytest.importorskip("rasterio", reason="rasterio is not installed (extra: geo)")
    return pytest.importorskip("tifffile")


def upright_by_hand(array: np.ndarray[Any, Any], tag: int) -> np.ndarray[Any, Any]:
    """The meaning of the tag in the EXIF standard: where the stored row 0 and column 0 belong."""
    return {
        1: lambda a: a,
        2: np.fliplr,  # row 0 top, column 0 right
        3: lambda a: np.rot90(a, 2),  # bottom, right
        4: np.flipud,  # bottom, left
        5: lambda a: a.swapaxes(0, 1),  # left, top
        6: lambda a: np.rot90(a, -1),  # right, top
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2),  # right, bottom
        8: np.rot90,  # left, bottom
    }[tag](array)


def with_tag(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


def grey_png(bits: int, rows: list[bytes], width: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_orientation_turns_image_and_mask_alike(tmp_path: Path, tag: int, suffix: str) -> None:
    mode = "RGB" if suffix == ".webp" else "L"
    image = Image.fromarray(LETTER * 255).convert(mode)
    image.save(tmp_path / f"a{suffix}", exif=with_tag(tag), lossless=True)
    expected = upright_by_hand(LETTER * 255, tag)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}", channels=1)[0].numpy(), expected)
    raw = read_raw_mask(tmp_path / f"a{suffix}")
    assert np.array_equal(raw if raw.ndim == 2 else raw[..., 0], expected)
    assert image_size(tmp_path / f"a{suffix}") == expected.shape


def test_orientation_turns_photographs(tmp_path: Path) -> None:
    photo = np.kron(LETTER * 255, np.ones((16, 16), np.uint8))
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=with_tag(6), quality=95)
    turned = read_image(tmp_path / "a.jpg", channels=1)[0].numpy()
    assert turned.shape == image_size(tmp_path / "a.jpg") == (48, 64)
    assert np.array_equal(turned > 127, np.rot90(photo, -1) > 127)


def test_orientation_turns_wide_masks_too(tmp_path: Path) -> None:
    wide = LETTER.astype(np.uint16) * 300
    Image.fromarray(wide).save(tmp_path / "a.png", exif=with_tag(8))
    assert np.array_equal(read_raw_mask(tmp_path / "a.png"), np.rot90(wide))


def test_palette_in_colour_is_an_index(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", LETTER, BINARY)
    assert np.array_equal(read_raw_mask(tmp_path / "a.png"), LETTER)
    colors = read_raw_mask(tmp_path / "a.png", colors=True)
    assert colors[0, 0].tolist() == [128, 0, 0]
    assert (palette_colors(tmp_path / "a.png") or [])[:2] == [(0, 0, 0), (128, 0, 0)]


def test_arrays_that_cannot_be_written_to_are_copied() -> None:
    grey = np.asarray(Image.new("L", (4, 3), 255))
    assert not grey.flags.writeable
    assert torch.equal(as_tensor(grey, channels=1), torch.full((1, 3, 4), 255, dtype=torch.uint8))


def test_palette_of_greys_is_a_grey_level(tmp_path: Path) -> None:
    image = Image.fromarray(1 - LETTER)
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_raw_mask(tmp_path / "a.png"), LETTER * 255)
    assert palette_colors(tmp_path / "a.png") is None


def test_gif_of_two_levels_keeps_them(tmp_path: Path) -> None:
    Image.fromarray(LETTER * 255).save(tmp_path / "a.gif")
    assert np.array_equal(read_raw_mask(tmp_path / "a.gif"), LETTER * 255)


def test_gif_in_colour_gives_colours(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).save(tmp_path / "a.gif")
    assert read_raw_mask(tmp_path / "a.gif").tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize(
    ("bits", "row", "expected"), [(1, b"\xa0", [1, 0, 1]), (2, b"\x6c", [1, 2, 3]), (4, b"\x1f\x20", [1, 15, 2])]
)
def test_small_grey_samples_are_not_stretched(tmp_path: Path, bits: int, row: bytes, expected: list[int]) -> None:
    (tmp_path / "a.png").write_bytes(grey_png(bits, [row], width=3))
    assert read_raw_mask(tmp_path / "a.png").tolist() == [expected]


def test_mask_of_wide_numbers(tmp_path: Path) -> None:
    wide = np.array([[0, 300], [65535, 7]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.fromarray(wide).save(tmp_path / "a.tif")
    assert np.array_equal(read_raw_mask(tmp_path / "a.png"), wide)
    assert np.array_equal(read_raw_mask(tmp_path / "a.tif"), wide)


def test_mask_of_fractions_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5]], np.float32)).save(tmp_path / "a.tif")
    Image.fromarray(np.array([[2.0]], np.float32)).save(tmp_path / "b.tif")
    assert read_raw_mask(tmp_path / "b.tif").tolist() == [[2]]
    with pytest.raises(FullyconvError, match=r"SEG-D011  .*a\.tif holds fractions"):
        read_raw_mask(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64", "float64"])
def test_mask_of_numbers_beyond_pillow(dtype: str, tifffile: Any, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", LETTER.astype(dtype))
    assert np.array_equal(read_raw_mask(tmp_path / "a.tif"), LETTER)
    assert np.array_equal(read_mask(tmp_path / "a.tif", BINARY).numpy(), LETTER)
    assert palette_colors(tmp_path / "a.tif") is None


def test_mask_of_many_bands_is_refused(tifffile: Any, tmp_path: Path) -> None:
    bands = np.zeros((5, 4, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", bands, planarconfig="separate", photometric="minisblack")
    with pytest.raises(FullyconvError, match=r"SEG-D011  .*a\.tif has 5 bands of uint8; a mask has one"):
        read_raw_mask(tmp_path / "a.tif")


def test_numbers_above_255_are_no_colours(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256]], np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(FullyconvError, match=r"SEG-D010  .*a\.png holds the number 256, but the classes are colours"):
        read_raw_mask(tmp_path / "a.png", colors=True)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_coloured_classes_are_read_from_every_mode(tmp_path: Path, mode: str) -> None:
    labels = LabelSet(("sky", "road"), table=(((0, 0, 255), 0), ((128, 64, 128), 1), ((0, 0, 0), 255)))
    colors = np.array([[[0, 0, 255], [128, 64, 128]], [[0, 0, 0], [0, 0, 255]]], np.uint8)
    image = Image.fromarray(colors)
    (image.quantize() if mode == "P" else image.convert(mode)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", labels).tolist() == [[0, 1], [255, 0]]


def test_grey_file_among_coloured_ones_is_read_as_colours(tmp_path: Path) -> None:
    labels = LabelSet(("black", "white"), table=(((0, 0, 0), 0), ((255, 255, 255), 1)))
    Image.fromarray(LETTER * 255).save(tmp_path / "a.png")
    Image.fromarray(LETTER * 255).convert("1").save(tmp_path / "b.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", labels).numpy(), LETTER)
    assert np.array_equal(read_mask(tmp_path / "b.png", labels).numpy(), LETTER)


def test_numbers_saved_as_rgb_are_read_as_numbers(tmp_path: Path) -> None:
    Image.fromarray(LETTER).convert("RGB").save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", BINARY).numpy(), LETTER)


def test_colours_for_classes_coded_by_number_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 0, 0], [1, 2, 3]]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(FullyconvError, match=r"SEG-D010  .*a\.png holds colours, such as #010203"):
        read_mask(tmp_path / "a.png", BINARY)


def test_illegal_value_names_the_file(tmp_path: Path) -> None:
    Image.fromarray(LETTER * 9).save(tmp_path / "a.png")
    with pytest.raises(FullyconvError, match=r"SEG-D010  .*a\.png holds values .*: 9 \(7 pixels\)"):
        read_mask(tmp_path / "a.png", BINARY)


def test_mat_files_of_sbd_and_crackforest(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": LETTER, "Boundaries": np.zeros(3)}})
    savemat(tmp_path / "b.mat", {"labels": LETTER})
    savemat(tmp_path / "c.mat", {"one": LETTER, "two": LETTER})
    assert np.array_equal(read_raw_mask(tmp_path / "a.mat"), LETTER)
    assert np.array_equal(read_raw_mask(tmp_path / "b.mat"), LETTER)
    assert image_size(tmp_path / "a.mat") == (4, 3)
    with pytest.raises(FullyconvError, match=r"SEG-D011  .*c\.mat holds one, two"):
        read_raw_mask(tmp_path / "c.mat")
    (tmp_path / "d.mat").write_bytes(b"no matrix")
    with pytest.raises(FullyconvError, match=r"SEG-D009  .*d\.mat"):
        read_raw_mask(tmp_path / "d.mat")


@pytest.mark.parametrize(
    ("name", "kind"), [("segmentation", np.uint8), ("S", np.float64), ("S", np.int16), ("LabelMap", np.uint16)]
)
def test_mat_files_of_nyud_sift_flow_and_pascal_context(tmp_path: Path, name: str, kind: type) -> None:
    from scipy.io import savemat

    beside = {
        "names": np.array(["sky", "sea"], object),
        "metaData": {"source": "LabelMe"},
        "counts": np.eye(2, dtype=int),
    }
    savemat(tmp_path / "a.mat", {name: LETTER.astype(kind), **beside})
    raw = read_raw_mask(tmp_path / "a.mat")
    assert np.array_equal(raw, LETTER)
    assert raw.dtype.kind in "ui"


@pytest.mark.parametrize(
    "unrelated",
    [{"gain": 2}, 3, "a name", np.eye(2) / 3, np.ones((2, 2, 2), int)],
    ids=lambda value: type(value).__name__,
)
def test_other_things_named_as_label_maps_are_passed_over(tmp_path: Path, unrelated: object) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"S": unrelated, "labels": LETTER})
    assert np.array_equal(read_raw_mask(tmp_path / "a.mat"), LETTER)


def test_label_map_of_fractions_is_refused(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"S": LETTER + 0.5})
    with pytest.raises(FullyconvError, match=r"SEG-D011  .*a\.mat holds fractions"):
        read_raw_mask(tmp_path / "a.mat")


def test_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(FullyconvError, match=r"SEG-D024  .*pip install 'fullyconv\[mat\]'"):
        read_raw_mask(tmp_path / "a.mat")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_channels_are_what_was_asked(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(LETTER * 255)
    image = Image.fromarray(LETTER.astype(np.uint16) * 65535) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "a.tif")
    for channels in (1, 3, 4):
        pixels = read_image(tmp_path / "a.tif", channels=channels)
        assert pixels.shape == (channels, 4, 3)
        full = 1.0 if mode == "I;16" else 255
        assert np.array_equal(pixels[0].numpy(), LETTER * np.array(full, pixels.numpy().dtype))
    stored = {"1": 1, "L": 1, "LA": 1, "I;16": 1, "RGBA": 4}.get(mode, 3)
    assert len(read_image(tmp_path / "a.tif", channels=None)) == stored


def test_wide_images_come_in_the_unit_interval(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 13107, 65535]], np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 0.25, 1]], np.float32)).save(tmp_path / "a.tif")
    assert torch.allclose(read_image(tmp_path / "a.png", channels=1)[0, 0], torch.tensor([0, 0.2, 1]))
    assert read_image(tmp_path / "a.tif")[:, 0].tolist() == [[0, 0.25, 1]] * 3


def test_floats_outside_the_unit_interval_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 300]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(FullyconvError, match=r"SEG-D011  .*a\.tif holds values from 0 to 300, expected \[0, 1\]"):
        read_image(tmp_path / "a.tif")


def test_wide_numbers_that_16_bits_cannot_hold_are_refused(tifffile: Any, tmp_path: Path) -> None:
    for largest in (65535, 65536):
        tifffile.imwrite(tmp_path / "a.tif", np.array([[[0, largest]] * 3] * 5, np.uint32), planarconfig="separate")
        if largest == 65535:
            assert read_image(tmp_path / "a.tif", channels=5).amax() == 1
    with pytest.raises(FullyconvError, match=r"SEG-D011  .*a\.tif holds values from 0 to 65536, expected 0 ... 65535"):
        read_image(tmp_path / "a.tif", channels=5)


def test_pages_of_a_tiff_are_bands(tmp_path: Path) -> None:
    pages = [Image.fromarray(LETTER + number) for number in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    bands = read_image(tmp_path / "a.tif", channels=5)
    assert [int(band[0, 0]) for band in bands] == [1, 2, 3, 4, 5]
    assert read_image(tmp_path / "a.tif", channels=None).shape == (5, 4, 3)
    with pytest.raises(FullyconvError, match=r"SEG-D011  .*has 5 channels, and 6 are to be read"):
        read_image(tmp_path / "a.tif", channels=6)


def test_first_page_is_the_picture_where_pages_are_no_bands(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.repeat((LETTER + number)[..., None], 3, axis=2)) for number in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert torch.equal(read_image(tmp_path / "a.tif", channels=3)[0], torch.from_numpy(LETTER))
    assert read_image(tmp_path / "a.tif", channels=9).amax((1, 2)).tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_wide_tiff_names_the_package_that_reads_it(
    tifffile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 3, 3), np.uint16), photometric="rgb")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(FullyconvError, match=r"SEG-D024  .*3 samples of 16 bits.*pip install 'fullyconv\[geo\]'"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("photometric", "extra", "dtype"),
    [
        ("rgb", ["unassalpha"], "uint8"),
        ("rgb", ["unassalpha"], "uint16"),
        ("rgb", ["unspecified"], "uint8"),
        ("rgb", ["unspecified"], "uint16"),
        ("rgb", ["unspecified", "unspecified"], "uint8"),
        ("minisblack", ["unspecified"], "uint8"),
        ("minisblack", ["unspecified"] * 3, "uint8"),
    ],
)
def test_every_band_of_a_tiff_is_read_as_stored(
    photometric: str, extra: list[str], dtype: str, tifffile: Any, tmp_path: Path
) -> None:
    bands, alpha = len(extra) + (3 if photometric == "rgb" else 1), extra == ["unassalpha"]
    stored = np.arange(12 * bands, dtype=dtype).reshape(4, 3, bands)
    kinds = {"photometric": photometric, "planarconfig": "contig", "extrasamples": extra}
    tifffile.imwrite(tmp_path / "a.tif", stored, **kinds)
    scale = {"uint8": 1, "uint16": 65535}[dtype]
    for channels in (None, bands):
        given = read_image(tmp_path / "a.tif", channels=channels).double() * scale
        assert np.array_equal(given.round().permute(1, 2, 0).numpy(), stored)
    header = read_header(tmp_path / "a.tif")
    assert (header.bands, header.alpha) == (bands, alpha)


@pytest.mark.parametrize("tag", range(1, 9))
def test_orientation_turns_tiffs_beyond_pillow(tag: int, tifffile: Any, tmp_path: Path) -> None:
    stored = np.repeat(upright_by_hand(LETTER, INVERSE[tag])[..., None].astype(np.uint16), 3, axis=2)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extratags=[(0x0112, "H", 1, tag, True)])
    assert np.array_equal(read_image(tmp_path / "a.tif")[0].numpy() > 0, LETTER)
    assert image_size(tmp_path / "a.tif") == LETTER.shape


@pytest.mark.parametrize("compress", ["none", "lzw", "zstd"])
def test_tiff_of_many_bands(compress: str, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed (extra: geo)")
    bands = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    shape = {"count": 5, "height": 4, "width": 3, "dtype": "uint8", "transform": rasterio.Affine.scale(2)}
    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", compress=compress, **shape) as file:
        file.write(bands)
    assert np.array_equal(read_image(tmp_path / "a.tif", channels=5).numpy(), bands)
    assert image_size(tmp_path / "a.tif") == (4, 3)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", None])
def test_what_cannot_be_decoded_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    if content is None:  # cut short
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
        content = buffer.getvalue()[:3000]
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_image, read_raw_mask):
        with pytest.raises(FullyconvError, match=r"SEG-D009  .*a\.png"):
            read(tmp_path / "a.png")


def test_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_image, read_raw_mask, image_size):
        with pytest.raises(FullyconvError, match=r"SEG-D001  there is no file .*a\.png"):
            read(tmp_path / "a.png")


def test_written_masks_are_read_back(tmp_path: Path) -> None:
    mask = torch.tensor([[0, 1], [255, 1]], dtype=torch.uint8)
    write_mask(tmp_path / "a.png", mask, BINARY)
    assert torch.equal(read_mask(tmp_path / "a.png", BINARY), mask)


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    labels = LabelSet(tuple(f"class {i}" for i in range(300)))
    mask = torch.tensor([[0, 299], [65535, 255]], dtype=torch.int32)
    write_mask(tmp_path / "a.png", mask, labels)
    assert torch.equal(read_mask(tmp_path / "a.png", labels), mask)


def test_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot write mode F"):
        write_picture(tmp_path / "a.png", Image.fromarray(np.zeros((2, 2), np.float32)))
    assert list(tmp_path.iterdir()) == []


def test_written_files_have_usual_permissions(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", LETTER, BINARY)
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_every_data_fault_has_an_entry() -> None:
    assert {f"SEG-D{number:03}" for number in range(1, 25)} <= set(FAULTS)


def test_pictures_of_a_scene_are_stacked_in_order(tmp_path: Path) -> None:
    color, depth = np.full((4, 6, 3), 51, np.uint8), np.full((4, 6), 13107, np.uint16)
    Image.fromarray(color).save(tmp_path / "color.png")
    Image.fromarray(depth).save(tmp_path / "depth.png")
    scene = stack((tmp_path / "color.png", tmp_path / "depth.png"), (3, 1))
    assert scene.shape == (4, 4, 6)
    assert torch.allclose(scene, torch.full((4, 4, 6), 0.2))
    assert torch.equal(stack((color, depth), (3, 1)), scene)
    assert torch.equal(stack((scene,), (3, 1)), scene)
    grey = stack((color[..., 0], color), (3, 3))
    assert grey.dtype == torch.uint8
    assert grey.shape == (6, 4, 6)


@pytest.mark.parametrize(
    ("pictures", "bands", "told"),
    [
        ([(4, 6, 3)], (3, 1), r"expected 2 pictures of each scene, of 3 and 1 bands, got 1; name the others.*--more"),
        ([(4, 6, 3), (4, 6), (4, 6)], (3, 1), r"expected 2 pictures .*got 3; leave out what --more"),
        ([(4, 6, 3), (4, 6)], (3,), r"expected one picture of each scene, of 3 bands, got 2; leave out what --more"),
        ([(4, 6, 3), (4, 7)], (3, 1), r"alike in size, got 6x4, 7x4"),
        ([(4, 6, 3), (4, 6, 3)], (3, 1), r"a further picture has 3 bands, expected 1"),
    ],
)
def test_pictures_that_do_not_go_together_are_refused(
    pictures: list[tuple[int, ...]], bands: tuple[int, ...], told: str
) -> None:
    with pytest.raises(FullyconvError, match=f"SEG-D030.*{told}"):
        stack([np.zeros(shape, np.uint8) for shape in pictures], bands)


def test_colors_are_no_depth(tmp_path: Path) -> None:
    for name in ("color.png", "depth.png"):
        Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / name)
    with pytest.raises(FullyconvError, match=r"SEG-D030.*depth\.png has 3 bands, expected 1"):
        stack((tmp_path / "color.png", tmp_path / "depth.png"), (3, 1))


def test_a_color_picture_with_alpha_is_no_scene_of_color_and_depth(tmp_path: Path) -> None:
    Image.new("RGBA", (6, 4)).save(tmp_path / "color.png")
    with pytest.raises(FullyconvError, match=r"SEG-D030.*2 pictures.*3 and 1 bands, got 1"):
        stack((tmp_path / "color.png",), (3, 1))
