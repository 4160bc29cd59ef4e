"""What a TIFF holds, by its tags alone; and the pictures in it that Pillow cannot read, or reads with a loss."""

import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fullyconv.errors import FullyconvError

Array = np.ndarray[Any, Any]
Tags = Mapping[int, tuple[int, ...]]

SUFFIXES = frozenset({".tif", ".tiff"})
INSTALL = "pip install 'fullyconv[geo]'"

NEW_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, PHOTOMETRIC = 254, 256, 257, 258, 262
ORIENTATION, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT = 274, 277, 338, 339
GEOREFERENCE_TAGS = frozenset({33550, 33922, 34264, 34735})  # GeoTIFF: pixel scale, tie points, transformation, keys
READ_TAGS = GEOREFERENCE_TAGS | {
    *(NEW_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, PHOTOMETRIC),
    *(ORIENTATION, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT),
}
OVERVIEW_OR_MASK = 1 | 4  # of NewSubfileType: bits 0 and 2
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6  # of PhotometricInterpretation
GREY = frozenset({WHITE_IS_ZERO, BLACK_IS_ZERO})
ALPHA = frozenset({1, 2, 999})  # of ExtraSamples: premultiplied or not; 999 is Corel Draw's
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # of SampleFormat
PILLOWS_GREYS = frozenset({(12, UNSIGNED), (16, UNSIGNED), (16, SIGNED), (32, UNSIGNED), (32, SIGNED), (32, FLOAT)})
NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the types of tags that hold whole numbers, as `struct` names them
_OPENING = threading.Lock()


@dataclass(frozen=True)
class Page:
    """A picture in a TIFF; its overviews and its mask are no pages.

    Args:
        number: Of its directory in the file, from 0 on.
        size: Height and width in pixels, upright.
        orientation: 1 (upright) to 8, as in EXIF.
        photometric: What the samples mean: the tag PhotometricInterpretation.
        samples: How many a pixel has.
        bits: Of a sample.
        kind: Of a sample: the tag SampleFormat.
        extra: What the samples beyond the colours are, as far as the file says: the tag ExtraSamples.
        georeferenced: Whether the file says where on the Earth it lies.
    """

    number: int
    size: tuple[int, int]
    orientation: int
    photometric: int
    samples: int
    bits: int
    kind: int
    extra: tuple[int, ...]
    georeferenced: bool

    @property
    def alpha(self) -> bool:
        """Whether the only sample beyond the colours is how opaque a pixel is."""
        return len(self.extra) == 1 and self.extra[0] in ALPHA

    @property
    def by_gdal(self) -> bool:
        """Whether Pillow does not know the page, or would give fewer bands or bits than it has."""
        if self.photometric not in GREY | {RGB}:
            return False
        colors = 1 if self.photometric in GREY else 3
        if self.samples == 1:
            return self.bits > 8 and (self.bits, self.kind) not in PILLOWS_GREYS
        return (self.bits, self.kind) != (8, UNSIGNED) or self.samples != colors + self.alpha

    @property
    def bands(self) -> int:
        """How many it is read as; Pillow gives colours of every kind as RGB, and grey without its alpha."""
        if self.by_gdal:
            return self.samples
        return 1 if self.photometric in GREY else 3 + self.alpha


def pages(path: Path) -> tuple[Page, ...]:
    """The pictures in a TIFF; none if the file is none by its name or its first bytes.

    Raises:
        FullyconvError: SEG-D009 if its tags are damaged.
    """
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return ()
    try:
        with path.open("rb") as file:
            found = list(enumerate(_directories(file)))
        whole = [one for one in found if not one[1].get(NEW_SUBFILE_TYPE, (0,))[0] & OVERVIEW_OR_MASK]
        return tuple(_page(number, tags) for number, tags in whole or found)
    except (OSError, struct.error, KeyError, IndexError) as error:
        raise FullyconvError("SEG-D009", f"{path} cannot be decoded: its tags are damaged ({error!r})") from None


def _page(number: int, tags: Tags) -> Page:
    def first(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0]

    size = tags[HEIGHT][0], tags[WIDTH][0]
    orientation = first(ORIENTATION, 1) if 1 <= first(ORIENTATION, 1) <= 8 else 1
    return Page(
        number,
        size if orientation < 5 else size[::-1],
        orientation,
        first(PHOTOMETRIC, WHITE_IS_ZERO),
        first(SAMPLES, 1),
        max(tags.get(BITS, (1,))),
        max(tags.get(SAMPLE_FORMAT, (UNSIGNED,))),
        tags.get(EXTRA_SAMPLES, ()),
        not GEOREFERENCE_TAGS.isdisjoint(tags),
    )


def _directories(file: BinaryIO) -> Iterator[Tags]:
    """Those tags of each directory of a TIFF or BigTIFF that are looked at, in order; nothing if the file is neither.

    Source: TIFF 6.0, section 2; BigTIFF as in libtiff.
    """
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) > 4 else 0
    if version not in (42, 43):
        return
    count, entry, pointer = ("Q", "HHQ8s", "Q") if version == 43 else ("H", "HHI4s", "I")

    def unpack(form: str, data: bytes) -> tuple[Any, ...]:
        return struct.unpack_from(order + form, data)

    def read(form: str, place: int) -> tuple[Any, ...]:
        file.seek(place)
        return unpack(form, file.read(struct.calcsize(order + form)))

    def values(kind: int, number: int, inline: bytes) -> tuple[int, ...]:
        if kind not in NUMBERS:
            return ()
        form = f"{number}{NUMBERS[kind]}"
        fits = struct.calcsize(order + form) <= len(inline)
        return unpack(form, inline) if fits else read(form, unpack(pointer, inline)[0])

    (place,) = unpack(pointer, head[8 if version == 43 else 4 :])
    seen = set[int]()
    while place and place not in seen:
        seen.add(place)
        (number,) = read(count, place)
        place += struct.calcsize(order + count)
        step = struct.calcsize(order + entry)
        entries = [read(entry, place + step * index) for index in range(number)]
        yield {tag: values(*rest) for tag, *rest in entries if tag in READ_TAGS}
        (place,) = read(pointer, place + step * number)


def read(path: Path, page: Page) -> Array:
    """The bands of a page as they are stored `(C, H, W)`, upright.

    Raises:
        FullyconvError: SEG-D009 if they cannot be decoded, SEG-D024 if rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError:
        told = f"{path} is a TIFF beyond what Pillow reads ({page.samples} samples of {page.bits} bits); to read it"
        raise FullyconvError("SEG-D024", f"{told}: {INSTALL}") from None
    with decoding(path):
        with _OPENING, warnings.catch_warnings():  # which threads must not enter together
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            dataset = rasterio.open(f"GTIFF_DIR:{page.number + 1}:{path}")
        with dataset:
            return np.ascontiguousarray(_upright(dataset.read(), page.orientation))


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns what GDAL finds wrong with a file into SEG-D009."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        raise FullyconvError("SEG-D009", f"{path} cannot be decoded: {error.__cause__ or error}") from None


def _upright(pixels: Array, orientation: int) -> Array:
    """Pixels `(..., H, W)` turned and mirrored as the tag says where row 0 and column 0 belong."""
    if orientation >= 5:
        pixels = pixels.swapaxes(-1, -2)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[..., ::-1, :]
    return pixels[..., ::-1] if orientation in {2, 3, 6, 7} else pixels
