"""Read and write images and masks: the only place that opens pictures.

One EXIF policy: the Orientation tag is applied to images and masks alike, by `read_image`, `read_mask`, `read_raw_mask`
and `image_size`. A mask that was written without the tag beside an image that has it therefore comes out turned
against the image, and the doctor reports it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import Z_RLE

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fullyconv import tiffs
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.tiffs import Page
from fullyconv.writing import whole

Array = np.ndarray[Any, Any]
Picture = str | Path | Image.Image | Array | Tensor

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
MASK_SUFFIXES = IMAGE_SUFFIXES | {".mat"}

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow stretches grey PNGs of 2 and 4 bits to 0 ... 255; in a mask the sample itself is the class.
STRETCH = {"L;2": 85, "L;4": 17}
GREY_MODES = frozenset({"1", "L", "LA", "La"})
# Where NYUDv2, PASCAL-Context and SIFT Flow keep a label map; beside it SIFT Flow has names and more.
MAT_VARIABLES = ("segmentation", "LabelMap", "S")
# Numbers too wide for Pillow's 8-bit modes.
WIDE_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})

# Users name their own files, and images beyond Pillow's limit of 179 million pixels are this package's business.
Image.MAX_IMAGE_PIXELS = None


def read_image(path: str | Path, *, channels: int | None = 3) -> Shaped[Tensor, "c h w"]:
    """One picture, upright.

    Args:
        path: Any file that Pillow reads; TIFFs of more bands or bits than it knows are read with rasterio.
        channels: 1 grey, 3 RGB (grey is repeated, alpha dropped, a palette resolved), 4 RGBA, None as the file has it.
            Any other number must be the file's own count of bands. The pages of a TIFF are bands where that fits the
            number; else its first page is read. Overviews and masks are no pages.

    Returns:
        uint8 in 0 ... 255; float32 in [0, 1] for files of 16 bits (divided by 65535) and of floating point. Pillow
        reduces 16-bit RGB PNGs to 8 bits.

    Raises:
        FullyconvError: SEG-D009 if the file cannot be decoded, SEG-D011 if it has not the channels asked for, or
            floating-point values outside [0, 1], SEG-D024 if it takes a package that is not installed.
    """
    path = Path(path)
    found = tiffs.pages(path)
    if found:
        bands = _tiff_bands(path, found, channels)
    else:
        with _opened(path) as image:
            bands = _pixels(image, channels)
    if channels is not None and len(bands) != channels:
        bands = _with_channels(bands, channels, path)
    return _unit_interval(torch.from_numpy(bands), path)


def pages(path: Path) -> int:
    """How many pictures a file holds, as TIFFs and GIFs may; 1 also for one that cannot be decoded."""
    try:
        found = tiffs.pages(path)
        if found:
            return len(found)
        with _opened(path) as image:
            return int(getattr(image, "n_frames", 1))
    except FullyconvError:
        return 1


def as_tensor(image: Picture, *, channels: int | None) -> Shaped[Tensor, "c h w"]:
    """A picture in any of its usual forms as `read_image` would give it.

    Args:
        image: A file, a Pillow image, an array `(H, W)` or `(H, W, C)`, or a tensor `(C, H, W)`; uint8, uint16, or
            float in [0, 1].
        channels: As in `read_image`.

    Raises:
        FullyconvError: SEG-D009 or SEG-D011, as in `read_image`.
    """
    if isinstance(image, str | Path):
        return read_image(image, channels=channels)
    given = Path("the given image")
    if isinstance(image, Tensor):
        bands = image.detach().cpu().numpy()
    else:
        bands = _pixels(image, channels) if isinstance(image, Image.Image) else _bands_first(image)
    if bands.ndim != 3 or 0 in bands.shape:
        raise FullyconvError(
            "SEG-D011", f"{given} has shape {bands.shape}; expected height, width and channels above 0"
        )
    if channels is not None and len(bands) != channels:
        bands = _with_channels(bands, channels, given)
    return _unit_interval(torch.from_numpy(np.require(bands, requirements=["C", "W"])), given)  # which Pillow's are not


def stack(pictures: Sequence[Picture], bands: Sequence[int]) -> Shaped[Tensor, "c h w"]:
    """Pictures of one scene, such as its colours and its depth, as one image: the bands of each follow the last's.

    Args:
        pictures: In the forms that `as_tensor` takes; or one array or tensor that holds the bands of all.
        bands: Of each picture. The first is converted as by `as_tensor`; the others are measurements, such as depth,
            and must have their bands as they are.

    Returns:
        uint8 if every picture has 8 bits, else float32 in [0, 1].

    Raises:
        FullyconvError: SEG-D030 if the pictures are not as many as `bands`, differ in size, or one has other bands.
    """
    if len(pictures) == 1 and _band_count(pictures[0]) == sum(bands):
        bands = (sum(bands),)
    if len(pictures) != len(bands):
        raise _unlike_count(len(pictures), bands)
    parts = [as_tensor(pictures[0], channels=bands[0]), *map(_further, pictures[1:], bands[1:])]
    sizes = [f"{part.shape[2]}x{part.shape[1]}" for part in parts]
    if len(set(sizes)) > 1:
        names = [str(picture) for picture in pictures if isinstance(picture, str | Path)]
        told = f" ({', '.join(names)})" if names else ""
        raise FullyconvError(
            "SEG-D030", f"the pictures of one scene{told} must be alike in size, got {', '.join(sizes)}"
        )
    if len({part.dtype for part in parts}) > 1:
        parts = [to_float(part) for part in parts]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _unlike_count(given: int, bands: Sequence[int]) -> FullyconvError:
    pictures = f"{len(bands)} pictures of each scene" if len(bands) > 1 else "one picture of each scene"
    wanted = f"{pictures}, of {' and '.join(map(str, bands))} bands, got {given}"
    if given > len(bands):
        return FullyconvError(
            "SEG-D030", f"expected {wanted}; leave out what --more, more= in data or more=[...] names"
        )
    return FullyconvError(
        "SEG-D030",
        f"expected {wanted}; name the others, such as depth: more=depth/{{name}}.png in data, --more "
        "'depth/{name}.png' for files, more=[...] in Python",
    )


def _further(picture: Picture, bands: int) -> Shaped[Tensor, "c h w"]:
    """A further picture of a scene with its bands as they are: of its colours, no grey is a measurement."""
    pixels = as_tensor(picture, channels=None)
    if len(pixels) != bands:
        named = picture if isinstance(picture, str | Path) else "a further picture"
        raise FullyconvError(
            "SEG-D030", f"{named} has {len(pixels)} bands, expected {bands}; save it with as many as in training"
        )
    return pixels


def to_float(image: Shaped[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """A picture as networks read it: float32 in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def to_rgb(image: Shaped[Tensor, "c h w"]) -> Array:
    """A picture as people see it: uint8 `(H, W, 3)`, from the first three bands; of fewer, the first in grey."""
    bands = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    pixels = bands if bands.dtype == torch.uint8 else (bands * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def read_mask(path: str | Path, labels: LabelSet) -> Integer[Tensor, "h w"]:
    """The class index, or `labels.ignore_index`, of each pixel of a mask file.

    A set coded by colour reads palette files by their palette's colours; a set coded by number reads grey pictures
    that were saved as RGB by their grey level.

    Returns:
        uint8, or int32 for more than 255 classes.

    Raises:
        FullyconvError: SEG-D010 if the mask holds a value or colour that no class stands for.
    """
    raw = read_raw_mask(path, colors=labels.coded_by_color)
    if raw.ndim == 3 and not labels.coded_by_color:
        raw = _single_channel(raw, Path(path))
    try:
        mask = labels.encode(raw)
    except FullyconvError as error:
        raise FullyconvError(error.code, f"{path} {error.message}") from None
    return torch.from_numpy(mask if mask.dtype == np.uint8 else mask.astype(np.int32))


def read_raw_mask(path: str | Path, *, colors: bool = False) -> Array:
    """The numbers or colours of a mask file, upright and otherwise as stored.

    What is a number: grey levels of 8 and 16 bits; the samples of grey PNGs of 1, 2 and 4 bits (0 ... 1, 3, 15, not
    stretched to 255); the indices of a palette in colour, as PASCAL VOC's; the label map of the .mat files of SBD,
    CrackForest, NYUDv2, SIFT Flow and PASCAL-Context, or the only one in another's. What is a colour: RGB and RGBA
    (alpha is dropped), and the palette of a GIF, whose indices every encoder orders anew. A palette of nothing but
    greys is an 8-bit grey picture stored compactly, and gives its grey levels.

    Args:
        path: A file whose name ends in one of `MASK_SUFFIXES`.
        colors: Give colours in any case: a palette's, and greys as (v, v, v).

    Returns:
        Integers `(H, W)`, or uint8 colours `(H, W, 3)`.

    Raises:
        FullyconvError: SEG-D009 if the file cannot be decoded, SEG-D010 for numbers above 255 in place of colours,
            SEG-D011 for fractions or further bands, SEG-D024 if it takes a package that is not installed.
    """
    path = Path(path)
    page = _page_by_gdal(path)
    if path.suffix.lower() == ".mat":
        raw = _read_mat(path)
    elif page:
        raw = _raw_bands(tiffs.read(path, page), path)
    else:
        with _opened(path) as image:
            raw = _raw_pixels(image, colors, path)
    return _as_colors(raw, path) if colors and raw.ndim == 2 else raw


def write_mask(path: str | Path, mask: Array | Tensor, labels: LabelSet) -> None:
    """Write class indices `(H, W)` as a PNG that shows its classes in colour; 16-bit grey above 256 values.

    The file appears whole or not at all: it is written beside its place and renamed.
    """
    values = np.asarray(mask)
    if labels.ignore_index == 255:
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(labels.palette())
    else:
        image = Image.fromarray(values.astype(np.uint16))
    write_picture(path, image)


def write_picture(path: str | Path, image: Image.Image) -> None:
    """Write a picture in the format of its suffix, whole or not at all."""
    with whole(Path(path)) as draft:
        # In PNG, zlib's RLE: an overlay of 480x439 takes 15 ms and 246 KB, by the default 59 ms and 238 KB.
        image.save(draft, compress_type=Z_RLE)


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before its pixels are decoded.

    Args:
        size: Height and width in pixels, upright.
        orientation: EXIF's Orientation, 1 (upright) to 8.
        bands: Those of `read_image(channels=None)`: grey without its alpha, colours with theirs.
        alpha: Whether the last of four says how opaque a pixel is.
    """

    size: tuple[int, int]
    orientation: int
    bands: int
    alpha: bool


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels, upright; only the header is read."""
    return read_header(path).size


def read_header(path: str | Path) -> Header:
    """Size, orientation and bands of a picture; only the header is read, but for .mat files."""
    path = Path(path)
    if path.suffix.lower() == ".mat":
        height, width = _read_mat(path).shape
        return Header((height, width), 1, bands=1, alpha=False)
    found = tiffs.pages(path)
    if found:
        first, *others = found
        bands = sum(page.bands for page in found)
        return Header(first.size, first.orientation, bands, alpha=first.alpha and bands == 4 and not others)
    with _opened(path) as image:
        tag, mode = orientation(image), _stored_mode(image)
        size = (image.width, image.height) if tag >= 5 else (image.height, image.width)
        return Header(size, tag, Image.getmodebands(mode), alpha=mode == "RGBA")


def orientation(image: Image.Image) -> int:
    """EXIF's Orientation of an opened picture, 1 (upright) to 8; 1 if the tag is absent or nonsense.

    A PNG counts only if its eXIf chunk comes before the pixels, so that the header alone tells.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    tag = image.getexif().get(ORIENTATION, 1)
    return tag if tag in TURNS else 1


def palette_colors(path: str | Path) -> list[tuple[int, int, int]] | None:
    """The colours of a picture's palette in order of their index; None if it has none in colour."""
    path = Path(path)
    if _page_by_gdal(path):
        return None
    with _opened(path) as image:
        if image.mode not in {"P", "PA"} or image.format == "GIF":
            return None
        palette = _palette(image)
        return None if _is_grey(palette) else [(int(r), int(g), int(b)) for r, g, b in palette]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture, with every way in which it can fail to decode turned into SEG-D009."""
    try:
        # By file, not by name: of a named TIFF that lies on its side Pillow 13 maps the pixels with height and width
        # swapped, and scrambles them.
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except FullyconvError:
        raise
    except FileNotFoundError:
        raise FullyconvError("SEG-D001", f"there is no file {path}") from None
    except UnidentifiedImageError:
        raise FullyconvError("SEG-D009", f"{path} is not a picture that Pillow knows ({_first_bytes(path)})") from None
    except (OSError, SyntaxError, ValueError, OverflowError, EOFError, Image.DecompressionBombError) as error:
        raise FullyconvError("SEG-D009", f"{path} cannot be decoded: {error}") from None


def _first_bytes(path: Path) -> str:
    size = path.stat().st_size
    if not size:
        return "the file is empty"
    with path.open("rb") as file:
        return f"{size} bytes, beginning {file.read(8)!r}"


def _upright(image: Image.Image) -> Image.Image:
    tag = 1 if image.format == "TIFF" else orientation(image)  # Pillow turns TIFFs by itself as it loads them
    return image.transpose(TURNS[tag]) if tag != 1 else image


def _pixels(image: Image.Image, channels: int | None) -> Array:
    """The picture `(C, H, W)`, converted where Pillow knows how."""
    image = _upright(image)
    mode = _stored_mode(image)
    if mode not in WIDE_MODES:
        mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels or 0, mode)
    return _planes(image if image.mode == mode else image.convert(mode))


def _planes(image: Image.Image) -> Array:
    """The bands `(C, H, W)` in the machine's own byte order, the only one that torch knows.

    Taken apart by Pillow instead of transposed by numpy: 2.3 to 2.5 ms in place of 2.5 to 2.7 for a JPEG of 683x512.
    """
    bands = np.stack([np.asarray(band) for band in image.split()])
    return bands.astype(bands.dtype.newbyteorder("="), copy=False)


def _stored_mode(image: Image.Image) -> str:
    """The mode of Pillow that holds the bands of a picture, and nothing else."""
    if image.mode in WIDE_MODES:
        return image.mode
    if image.mode in GREY_MODES:
        return "L"
    if image.mode in {"RGBA", "RGBa", "PA"} or "transparency" in image.info:
        return "RGBA"
    return "RGB"


def _tiff_bands(path: Path, pages: Sequence[Page], channels: int | None) -> Array:
    """The bands of a TIFF `(C, H, W)`: of all its pages if they are asked for, else of the first."""
    if channels in {1, 3, 4} and channels != sum(page.bands for page in pages):
        pages = pages[:1]
    if len({page.size for page in pages}) > 1:
        sizes = ", ".join(f"{page.size[1]}x{page.size[0]}" for page in pages[:4])
        told = f"its {len(pages)} pages differ in size ({sizes}), so they are not bands of one picture"
        raise FullyconvError("SEG-D009", f"{path} cannot be decoded: {told}")
    return np.concatenate([_page_bands(path, page, channels if len(pages) == 1 else None) for page in pages])


def _page_bands(path: Path, page: Page, channels: int | None) -> Array:
    if page.by_gdal:
        return tiffs.read(path, page)
    with _opened(path) as image:
        image.seek(page.number)
        return _pixels(image, channels)


def _page_by_gdal(path: Path) -> Page | None:
    """The first page of a TIFF that is beyond Pillow; None for every other file."""
    found = tiffs.pages(path)
    return found[0] if found and found[0].by_gdal else None


def _with_channels(bands: Array, channels: int, path: Path) -> Array:
    """Wide grey repeated to RGB or RGBA, alpha dropped; everything else has no honest conversion."""
    have = len(bands)
    if have == 4 and channels == 3:
        return bands[:3]
    if have != 1 or channels not in {3, 4}:
        raise FullyconvError("SEG-D011", f"{path} has {have} channels, and {channels} are to be read; convert it")
    opaque = np.full_like(bands, 1 if bands.dtype.kind == "f" else np.iinfo(bands.dtype).max)
    return np.concatenate([bands, bands, bands, opaque][:channels])


def _band_count(picture: Picture) -> int | None:
    """The bands of an array or a tensor; None for a file or a Pillow image, which are one picture in any case."""
    if isinstance(picture, Tensor):
        return picture.shape[0]
    return _bands_first(picture).shape[0] if isinstance(picture, np.ndarray) else None


def _unit_interval(tensor: Tensor, path: Path) -> Tensor:
    if tensor.dtype == torch.uint8:
        return tensor
    if tensor.dtype == torch.uint16:
        return tensor.to(torch.int32).to(torch.float32) / 65535
    if tensor.dtype in {torch.uint32, torch.uint64}:  # in which torch finds no extremes
        tensor = tensor.to(torch.int64)
    low, high = float(tensor.amin()), float(tensor.amax())
    if not tensor.is_floating_point() and low >= 0 and high <= 65535:
        return tensor.to(torch.float32) / 65535
    if tensor.is_floating_point() and low >= 0 and high <= 1:
        return tensor.to(torch.float32)
    expected = "[0, 1]" if tensor.is_floating_point() else "0 ... 65535"
    raise FullyconvError(
        "SEG-D011",
        f"{path} holds values from {low:g} to {high:g}, expected {expected}; rescale it, or save it as uint16",
    )


def _bands_first(pixels: Array) -> Array:
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _raw_pixels(image: Image.Image, colors: bool, path: Path) -> Array:
    tiles = getattr(image, "tile", [])
    stretch = STRETCH.get(str(tiles[0].args), 1) if tiles and not colors else 1
    if image.mode in {"P", "PA"}:
        return _palette_pixels(image, colors)
    if (image.mode == "1" and colors) or image.mode in {"LA", "La"}:
        return np.array(_upright(image).convert("L"))
    if image.mode not in {"1", "L", "RGB"} | WIDE_MODES:
        return np.array(_upright(image).convert("RGB"))
    pixels = np.array(_upright(image))
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if pixels.dtype.kind == "f":
        return _whole_numbers(pixels, path)
    return pixels // np.uint8(stretch) if stretch > 1 else pixels


def _raw_bands(bands: Array, path: Path) -> Array:
    """The numbers or colours that the bands `(C, H, W)` of a mask hold."""
    if len(bands) == 1:
        return _whole_numbers(bands[0], path) if bands.dtype.kind == "f" else bands[0]
    if len(bands) in {3, 4} and bands.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(bands[:3], 0, 2))
    raise FullyconvError(
        "SEG-D011", f"{path} has {len(bands)} bands of {bands.dtype}; a mask has one, or three of 8 bits for colours"
    )


def _as_colors(raw: Array, path: Path) -> Array:
    """Greys as (v, v, v)."""
    strange = raw[(raw < 0) | (raw > 255)]
    if strange.size:
        raise FullyconvError(
            "SEG-D010", f"{path} holds the number {strange[0]}, but the classes are colours, of 0 ... 255 each"
        )
    return np.repeat(raw.astype(np.uint8)[..., None], 3, axis=2)


def _whole_numbers(pixels: Array, path: Path) -> Array:
    whole = np.nan_to_num(pixels).astype(np.int64)
    if not np.array_equal(whole, pixels):
        raise FullyconvError("SEG-D011", f"{path} holds fractions; a mask needs whole numbers, one per class")
    return whole


def _palette_pixels(image: Image.Image, colors: bool) -> Array:
    is_gif = image.format == "GIF"
    image = _upright(image)
    indices = np.array(image)
    if indices.ndim == 3:
        indices = indices[..., 0]
    palette = _palette(image)
    if _is_grey(palette):
        return np.asarray(palette[indices][..., 0])
    return palette[indices] if colors or is_gif else indices


def _palette(image: Image.Image) -> Array:
    """The 256 RGB entries of a palette `(256, 3)`; entries that the file leaves out repeat its last."""
    image.load()
    stored = np.array(image.getpalette("RGB") or [0, 0, 0], np.uint8).reshape(-1, 3)
    return np.pad(stored[:256], ((0, max(0, 256 - len(stored))), (0, 0)), mode="edge")


def _is_grey(colors: Array) -> bool:
    return bool((colors[..., 0] == colors[..., 1]).all() and (colors[..., 1] == colors[..., 2]).all())


def _single_channel(raw: Array, path: Path) -> Array:
    if not _is_grey(raw):
        first = raw[(raw != raw[..., :1]).any(axis=2)][0]
        raise FullyconvError(
            "SEG-D010",
            f"{path} holds colours, such as #{first[0]:02X}{first[1]:02X}{first[2]:02X}, but the classes are numbers; "
            "list the colours in classes.json, or convert the masks with fullyconv check --fix",
        )
    return raw[..., 0]


def _read_mat(path: Path) -> Array:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise FullyconvError(
            "SEG-D024", f"{path} is a MATLAB file; to read those: pip install 'fullyconv[mat]'"
        ) from None
    try:
        variables = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    except FileNotFoundError:
        raise FullyconvError("SEG-D001", f"there is no file {path}") from None
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise FullyconvError("SEG-D009", f"{path} cannot be decoded: {error}") from None
    found = _label_arrays(variables)
    if len(found) != 1:
        held = ", ".join(variables) or "nothing"
        raise FullyconvError(
            "SEG-D011", f"{path} holds {held}: {len(found)} label maps were found in it, expected exactly one"
        )
    # MATLAB's own kind of number is the double.
    return _whole_numbers(found[0], path) if found[0].dtype.kind == "f" else found[0]


def _label_arrays(variables: dict[str, Any]) -> list[Array]:
    """The label maps in a .mat file: whole numbers in a variable that a data set is known to keep them in, else the
    fields `Segmentation` of its structs, else its 2-D arrays of integers."""
    known = [variables[name] for name in MAT_VARIABLES if name in variables and _is_map(variables[name], "uif")]
    whole = [value for value in known if np.array_equal(value, np.round(value))]
    structs = [value["Segmentation"] for value in variables.values() if "Segmentation" in (value.dtype.names or ())]
    fields = [np.asarray(entry) for entries in structs for entry in entries.ravel()]
    return whole or fields or [value for value in variables.values() if _is_map(value, "ui")] or known


def _is_map(value: Array, kinds: str) -> bool:
    """Whether it has rows and columns of numbers of these kinds; a single number has them, too, in MATLAB."""
    return value.ndim == 2 and value.size > 1 and value.dtype.kind in kinds
