"""Caffe's snapshots, written byte by byte: made of the numbers in `caffe.proto` alone, not of the reader."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Blobs = Sequence[NDArray[np.generic]]


def write_caffemodel(
    file: Path, layers: Mapping[str, Blobs], *, version: int = 2, legacy: bool = False, double: bool = False
) -> Path:
    """Writes the blobs of each layer by name.

    Args:
        file: Where to.
        layers: The blobs by layer.
        version: 1 writes `layers` messages, 2 `layer` messages.
        legacy: Whether blobs have num, channels, height and width in place of a shape.
        double: Whether values take 8 bytes.
    """
    net, name_of, blobs_of = {1: (2, 4, 6), 2: (100, 1, 7)}[version]
    content = _bytes(1, b"a net") + b"".join(
        _bytes(
            net, _bytes(name_of, name.encode()) + b"".join(_bytes(blobs_of, _blob(b, legacy, double)) for b in blobs)
        )
        for name, blobs in layers.items()
    )
    file.write_bytes(content)
    return file


def _blob(values: NDArray[np.generic], legacy: bool, double: bool) -> bytes:
    data = _bytes(8, values.astype("<f8").tobytes()) if double else _bytes(5, values.astype("<f4").tobytes())
    if legacy:
        sides = (1,) * (4 - values.ndim) + values.shape
        return b"".join(_varint(number << 3) + _varint(side) for number, side in enumerate(sides, start=1)) + data
    return _bytes(7, _bytes(1, b"".join(map(_varint, values.shape)))) + data


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
