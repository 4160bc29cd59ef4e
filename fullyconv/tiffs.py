"""What a TIFF holds, by its tags alone; and the pictures in it that Pillow cannot read, or reads with a loss."""

import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.errors import FullyconvError

Array = np.ndarray[Any, Any]

SUFFIXES = frozenset({".tif", ".tiff"})
INSTALL = "pip install 'fullyconv[geo]'"

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, either way round
ORIENTATION = 274
GEOREFERENCE_TAGS = (33550, 33922, 34264, 34735)  # GeoTIFF: pixel scale, tie points, transformation, keys
OVERVIEW_OR_MASK = 1 | 4  # of NewSubfileType: bits 0 and 2
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6  # of PhotometricInterpretation
GREY = frozenset({WHITE_IS_ZERO, BLACK_IS_ZERO})
ALPHA = frozenset({1, 2, 999})  # of ExtraSamples: premultiplied or not; 999 is Corel Draw's
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # of SampleFormat
PILLOWS_GREYS = frozenset({(12, UNSIGNED), (16, UNSIGNED), (16, SIGNED), (32, UNSIGNED), (32, SIGNED), (32, FLOAT)})
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
    import tifffile  # which takes a tenth of a second

    try:
        with path.open("rb") as head:
            if head.read(4) not in MAGIC:
                return ()
        with tifffile.TiffFile(path) as file:
            found: list[Any] = list(file.pages)
            whole = [page for page in found if not page.subfiletype & OVERVIEW_OR_MASK]
            return tuple(map(_page, whole or [found[0]]))
    except (tifffile.TiffFileError, OSError, struct.error, ValueError, TypeError, LookupError) as error:
        raise FullyconvError("SEG-D009", f"{path} cannot be decoded: its tags are damaged ({error})") from None


def _page(page: Any) -> Page:
    orientation = page.tags.valueof(ORIENTATION, 1)
    orientation = orientation if 1 <= orientation <= 8 else 1
    size = page.imagelength, page.imagewidth
    return Page(
        page.index,
        size if orientation < 5 else size[::-1],
        orientation,
        page.photometric,
        page.samplesperpixel,
        page.bitspersample,
        page.sampleformat,
        tuple(page.extrasamples),
        any(tag in page.tags for tag in GEOREFERENCE_TAGS),
    )


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
