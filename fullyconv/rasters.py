"""Images larger than memory, read and written by windows: TIFFs, with their georeference, and zarr arrays.

Pictures in other formats, and TIFFs that this room does not know (turned, of less than 8 bits, in colours other than
RGB), are read whole by `images`.
"""

import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fullyconv import tiffs
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.tiffs import decoding

Array = np.ndarray[Any, Any]
Rows = Callable[[int, int], Array]
"""Full rows of a label map, from one up to another."""

LARGE_PIXELS = 64_000_000
"""A TIFF above this is read by windows: its pixels, label map and overlay together would take half a gigabyte."""
ARRAY_FILES = ("zarr.json", ".zarray", ".zgroup")
BLOCK = 512
LEAST_CACHE = 16_000_000
KNOWN_COLORS = {tiffs.BLACK_IS_ZERO, tiffs.RGB, tiffs.PALETTE, tiffs.YCBCR}


@dataclass(frozen=True)
class Raster(ABC):
    """An image in a file, opened to be read by windows.

    Args:
        path: Of the file or folder.
        size: Height and width in pixels.
        row_bytes: What a row of its pixels takes in memory.
    """

    path: Path
    size: tuple[int, int]
    row_bytes: int

    room: ClassVar[float]
    """Bytes of the disk that `write_labels` takes for each of the label map's, if half of them are left at most."""

    @abstractmethod
    def read(self, rows: slice, columns: slice) -> Array:
        """The pixels of a window, `(h, w, C)` as stored; 0 where they are no data.

        Raises:
            FullyconvError: SEG-D009 if they cannot be decoded.
        """

    @abstractmethod
    def preview(self, step: int) -> Array:
        """Every `step`-th pixel of both axes from `step // 2` on, `(h, w, C)`."""

    @abstractmethod
    def has_data(self, first: int, last: int) -> Array | None:
        """Where full rows hold data, bool `(rows, W)`; None if that is everywhere."""

    @abstractmethod
    def write_labels(self, path: Path, rows: Rows, labels: LabelSet) -> None:
        """Writes a label map of this image in its format.

        Args:
            path: Of the new file or folder.
            rows: Gives the map's rows.
            labels: What its values mean.
        """


def by_windows(path: Path) -> bool:
    """Whether an image is one to read by windows: a zarr array, or a TIFF that is large or has a georeference.

    Raises:
        FullyconvError: SEG-D024 if that needs a package that is not installed, SEG-D009 for a damaged file.
    """
    if is_zarr(path):
        return True
    pages = tiffs.pages(path)
    if len(pages) != 1:
        return False
    page, large = pages[0], math.prod(pages[0].size) > LARGE_PIXELS
    try:
        import rasterio  # noqa: F401
    except ImportError:
        if large:
            raise FullyconvError(
                "SEG-D024", f"{path} is too large to be read whole; to read it by windows: {tiffs.INSTALL}"
            ) from None
        return False
    plain = page.orientation == 1 and page.photometric in KNOWN_COLORS and page.bits % 8 == 0
    return (page.georeferenced or large) and plain


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or a group of them."""
    return path.is_dir() and any((path / name).exists() for name in ARRAY_FILES)


def label_suffix(path: Path) -> str:
    """The suffix of a label map beside an image that is read by windows."""
    return ".zarr" if is_zarr(path) else ".tif"


@contextmanager
def opened(path: Path, *, bands: int = 0) -> Iterator[Raster]:
    """The image in a file that `by_windows` says is to be read so, for as long as it is needed.

    Args:
        path: Of the file or folder.
        bands: How many of it are looked at. An alpha band beyond them is not given, but tells where there are no data.

    Raises:
        FullyconvError: SEG-D009 if it cannot be decoded, SEG-D011 if its axes are not those of an image, SEG-D024 if a
            package is not installed.
    """
    if is_zarr(path):
        yield _opened_zarr(path)
        return
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with decoding(path):
            dataset = rasterio.open(path)
        with dataset:
            row_bytes = dataset.width * sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
            yield Tiff(path, (dataset.height, dataset.width), row_bytes, dataset, *_bands_and_gaps(dataset, bands))


@contextmanager
def caching(size: int) -> Iterator[None]:
    """Lets decoded blocks of TIFFs take so many bytes of memory, in which neighbouring windows find what they share."""
    try:
        import rasterio
    except ImportError:  # zarr arrays are read without it
        yield
        return
    with rasterio.Env(GDAL_CACHEMAX=max(LEAST_CACHE, size)):
        yield


@dataclass(frozen=True)
class Tiff(Raster):
    """A TIFF.

    Args:
        dataset: Rasterio's.
        bands: The numbers of those that are given, from 1 on.
        has_gaps: Whether some pixels may be no data.
    """

    dataset: Any
    bands: list[int]
    has_gaps: bool

    # A half for the intermediate file, and for the finished one a half, its overviews' third and those in a draft.
    room = 4 / 3

    def read(self, rows: slice, columns: slice) -> Array:
        window = ((rows.start, rows.stop), (columns.start, columns.stop))
        with decoding(self.path):
            pixels = self._colored(self.dataset.read(self.bands, window=window))
            if self.has_gaps:
                pixels[self.dataset.dataset_mask(window=window) == 0] = 0
        return pixels

    def preview(self, step: int) -> Array:
        height, width = (side // step for side in self.size)
        window, shape = ((0, height * step), (0, width * step)), (height, width)
        with decoding(self.path):
            pixels = self._colored(self.dataset.read(self.bands, window=window, out_shape=(len(self.bands), *shape)))
            if self.has_gaps:
                pixels[self.dataset.dataset_mask(window=window, out_shape=shape) == 0] = 0
        return pixels

    def has_data(self, first: int, last: int) -> Array | None:
        if not self.has_gaps:
            return None
        with decoding(self.path):
            return np.asarray(self.dataset.dataset_mask(window=((first, last), (0, self.size[1]))) != 0)

    def write_labels(self, path: Path, rows: Rows, labels: LabelSet) -> None:
        """Writes a cloud-optimised GeoTIFF: in compressed tiles with overviews, a palette and the georeference.

        Beside it lies an intermediate file, as a cloud-optimised one cannot be written in order.
        """
        import rasterio
        import rasterio.shutil
        from rasterio._err import CPLE_BaseError  # what copying lets through, as it is or as a SystemError
        from rasterio.errors import RasterioError

        draft = path.with_name(f"{path.name}.draft")
        height, width = self.size
        parts = [(first, min(height, first + BLOCK)) for first in range(0, height, BLOCK)]
        dtype = label_dtype(labels)
        profile = {"height": height, "width": width, "count": 1, "dtype": dtype, "nodata": labels.ignore_index}
        tiling = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "zlevel": 1}
        try:
            with rasterio.open(
                draft, "w", "GTiff", BIGTIFF="IF_SAFER", **profile, **tiling, **self._place()
            ) as dataset:
                if dtype == np.uint8:
                    palette = np.array(labels.palette()).reshape(256, 3)
                    dataset.write_colormap(1, dict(enumerate(map(tuple, palette.tolist()))))
                dataset.update_tags(classes=json.dumps(labels.names))
                for first, last in parts:
                    dataset.write(rows(first, last), 1, window=((first, last), (0, width)))
            rasterio.shutil.copy(
                draft, path, driver="COG", compress="DEFLATE", overview_resampling="MODE", bigtiff="IF_SAFER"
            )
            with rasterio.open(path) as dataset:  # as GDAL is silent about what fails when it closes a file
                for first, last in parts:
                    if not np.array_equal(dataset.read(1, window=((first, last), (0, width))), rows(first, last)):
                        raise RasterioError("it does not hold what was written")
        except (RasterioError, CPLE_BaseError, SystemError) as error:
            raise FullyconvError(
                "SEG-P007",
                f"{path} cannot be written: {error.__cause__ or error}; free some space and repeat the command",
            ) from None
        finally:
            draft.unlink(missing_ok=True)

    def _colored(self, bands: Array) -> Array:
        from rasterio.enums import ColorInterp

        if self.dataset.colorinterp[0] != ColorInterp.palette:
            return np.moveaxis(bands, 0, 2)
        palette = np.zeros((1 << 8 * bands.itemsize, 3), np.uint8)
        for index, color in self.dataset.colormap(1).items():
            palette[index] = color[:3]
        colors: Array = palette[bands[0]]
        return colors

    def _place(self) -> dict[str, Any]:
        """Where the image lies on the Earth, as far as it tells."""
        points, crs = self.dataset.gcps
        if points:
            return {"gcps": points, "crs": crs}
        if self.dataset.crs is None and self.dataset.transform.is_identity:
            return {}
        return {"crs": self.dataset.crs, "transform": self.dataset.transform}


@dataclass(frozen=True)
class Zarr(Raster):
    """A zarr array.

    Args:
        array: Of axes `(H, W)`, `(H, W, C)` or `(C, H, W)`.
        bands_first: Whether it is the last of these.
    """

    array: Any
    bands_first: bool

    room = 1 / 2

    def read(self, rows: slice, columns: slice) -> Array:
        try:
            stored = np.asarray(self.array[:, rows, columns] if self.bands_first else self.array[rows, columns])
        except (OSError, ValueError, RuntimeError) as error:
            raise FullyconvError("SEG-D009", f"{self.path} cannot be decoded: {error}") from None
        pixels = stored.astype(stored.dtype.newbyteorder("="), copy=False)  # the only order that torch knows
        if pixels.ndim == 2:
            return pixels[..., None]
        return np.moveaxis(pixels, 0, 2) if self.bands_first else pixels

    def preview(self, step: int) -> Array:
        height, width = (side // step for side in self.size)
        starts = range(0, height, max(1, BLOCK // step))
        bands = [
            self.read(slice(first * step, min(height, first + starts.step) * step), slice(0, width * step))
            for first in starts
        ]
        return np.concatenate([band[step // 2 :: step, step // 2 :: step] for band in bands])

    def has_data(self, first: int, last: int) -> Array | None:
        return None

    def write_labels(self, path: Path, rows: Rows, labels: LabelSet) -> None:
        """Writes a zarr array of version 3 with the attributes of this one, and its classes."""
        import zarr

        height, width = self.size
        array = zarr.create_array(
            path,
            shape=self.size,
            chunks=(min(height, 2 * BLOCK), min(width, 2 * BLOCK)),
            dtype=label_dtype(labels),
            fill_value=labels.ignore_index,
            dimension_names=("y", "x"),
            attributes={**self.array.attrs.asdict(), "labels": labels.to_dict()},
        )
        for first in range(0, height, 2 * BLOCK):
            last = min(height, first + 2 * BLOCK)
            array[first:last] = rows(first, last)


def label_dtype(labels: LabelSet) -> np.dtype[Any]:
    """The type of a label map's pixels in a file."""
    return np.dtype(np.uint8 if labels.ignore_index == 255 else np.uint16)


def _opened_zarr(path: Path) -> Zarr:
    try:
        import zarr
    except ImportError:
        raise FullyconvError("SEG-D024", f"{path} is a zarr array; to read those: {tiffs.INSTALL}") from None
    try:
        array: Any = zarr.open(path, mode="r")
        # Of several images, as bioformats2raw lays them out, 0 is the first; of its resolutions in OME-Zarr the finest.
        while isinstance(array, zarr.Group):
            array = array["0"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FullyconvError("SEG-D009", f"{path} cannot be opened as a zarr array: {error}") from None
    shape = tuple(array.shape)
    names = [str(name).lower() for name in getattr(array.metadata, "dimension_names", None) or ()]
    if len(shape) not in (2, 3) or 0 in shape:
        raise FullyconvError("SEG-D011", f"{path} has the shape {shape}; expected height and width, or bands as well")
    bands_first = len(shape) == 3 and (names[-1] == "x" if names else shape[0] < shape[2])
    size = (shape[1], shape[2]) if bands_first else (shape[0], shape[1])
    bands = 1 if len(shape) == 2 else shape[0 if bands_first else 2]
    return Zarr(path, size, size[1] * bands * array.dtype.itemsize, array, bands_first)


def _bands_and_gaps(dataset: Any, wanted: int) -> tuple[list[int], bool]:
    """The bands of a TIFF to give, and whether some of its pixels may be no data.

    Args:
        dataset: Rasterio's.
        wanted: How many bands are looked at: many programs mark near infrared as alpha.
    """
    from rasterio.enums import ColorInterp, MaskFlags

    flags = {flag for flags in dataset.mask_flag_enums for flag in flags}
    if MaskFlags.alpha in flags and dataset.count <= wanted:
        return list(dataset.indexes), False
    kinds = zip(dataset.indexes, dataset.colorinterp, strict=True)
    return [band for band, kind in kinds if kind != ColorInterp.alpha], flags != {MaskFlags.all_valid}
