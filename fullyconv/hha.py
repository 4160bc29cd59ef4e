"""HHA: a depth image as three channels, horizontal disparity, height above ground and angle with gravity.

Source: Gupta, Girshick, Arbelaez and Malik 2014 for the encoding, Gupta, Arbelaez and Malik 2013 for gravity; radii,
limits and rounding as in saveHHA.m and processDepthImage.m of rcnn-depth.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from fullyconv.errors import FullyconvError
from fullyconv.images import IMAGE_SUFFIXES, read_raw_mask, write_picture

Array = np.ndarray[Any, Any]

NORMAL_RADIUS, GRAVITY_RADIUS = 3, 10  # of the square of pixels that a plane is fitted to; the wider one is steadier
NEAREST = 100.0  # cm; disparities of nearer points would leave the range
DISPARITY_SCALE = 31000.0  # 310 at 1 m, 31 at 10 m
GROUND_AT_LEAST, USUAL_GROUND = 90.0, 130.0  # cm below the camera
ANGLE_OFFSET = 128 - 90  # a wall is 128
UNKNOWN_ANGLE = 180.0  # degrees, which MATLAB makes of a normal that is not a number


@dataclass(frozen=True)
class Camera:
    """How a camera projects: a point (x, y, z) falls on pixel (focal_x x / z + centre_x, focal_y y / z + centre_y).

    Args:
        focal_x: Pixels.
        focal_y: Pixels.
        centre_x: Pixels, where the middle of the first pixel is 0. MATLAB's toolboxes count from 1.
        centre_y: The same downwards.
    """

    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float

    def rays(self, height: int, width: int) -> Array:
        """What every pixel sees at depth 1: points `(H, W, 3)`, x to the right, y down, z ahead."""
        x = (np.arange(width) - self.centre_x) / self.focal_x
        y = (np.arange(height) - self.centre_y) / self.focal_y
        return np.stack((*np.meshgrid(x, y), np.ones((height, width))), axis=-1)


# Source: the colour camera of NYUDv2's toolbox, to which its depth is projected; the toolbox counts pixels from 1.
NYUD_CAMERA = Camera(518.85790117450188, 519.46961112127485, 325.58244941119034 - 1, 253.73616633400465 - 1)


def hha(depth: Array, camera: Camera, *, known: Array | None = None) -> Array:
    """The HHA picture of a depth image.

    Args:
        depth: Metres `(H, W)`, with holes filled as well as can be; 0 where nothing is known.
        camera: What took it.
        known: Where the depth was measured and not filled in `(H, W)`; where it is above 0 if left out. Planes are
            fitted to these pixels alone.

    Returns:
        uint8 `(H, W, 3)`. First 31000 / depth in centimetres, nearer than a metre as a metre. Then the height above the
        lowest point in centimetres, or, if none lies 90 below the camera, above 130 below it. Last the angle of the
        surface with gravity in degrees, plus 38: a floor is 38, a wall 128, a ceiling 218, as is an unknown surface.
        All are rounded and cut at 0 and 255. A pixel of depth 0 counts as one at the camera, as in MATLAB: its
        disparity is 255, the nearest.
    """
    depth = np.nan_to_num(depth.astype(np.float64), posinf=0)
    known = depth > 0 if known is None else known & (depth > 0)
    rays = camera.rays(*depth.shape)
    down = gravity(normals(depth, rays, known, GRAVITY_RADIUS))
    height = -100 * depth * (rays @ down)
    lowest = height.min()
    ground = lowest if lowest <= -GROUND_AT_LEAST else -USUAL_GROUND
    cosine = (normals(depth, rays, known, NORMAL_RADIUS) @ down).clip(-1, 1)
    channels = (
        DISPARITY_SCALE / np.maximum(100 * depth, NEAREST),
        height - ground,
        np.nan_to_num(np.degrees(np.arccos(cosine)), nan=UNKNOWN_ANGLE) + ANGLE_OFFSET,
    )
    # MATLAB rounds halves up, NumPy to even.
    return np.floor(np.stack(channels, axis=-1) + 0.5).clip(0, 255).astype(np.uint8)


def normals(depth: Array, rays: Array, known: Array, radius: int) -> Array:
    """The unit normals `(H, W, 3)` of the surface, turned away from the camera; NaN where too little is known.

    A plane n p = 1 holds n r = 1 / depth on the ray r of every pixel, so its least squares over the square around a
    pixel are sums of products of rays.

    Args:
        depth: `(H, W)`, in any unit.
        rays: Of the camera, `(H, W, 3)`.
        known: Which pixels count, `(H, W)`.
        radius: Half the side of the square, in pixels.
    """
    seen = rays * known[..., None]
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=known)
    left, right = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]
    products = np.concatenate((seen[..., left] * seen[..., right], seen * inverse[..., None]), axis=-1)
    xx, xy, xz, yy, yz, zz, *b = np.moveaxis(_box_sums(products, radius), -1, 0)
    # The adjugate of the symmetric matrix; as for its product with b, only the direction matters.
    adjugate = (
        (yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy),
        (xz * yz - xy * zz, xx * zz - xz * xz, xy * xz - xx * yz),
        (xy * yz - xz * yy, xy * xz - xx * yz, xx * yy - xy * xy),
    )
    vectors = np.stack([sum(minor * each for minor, each in zip(row, b, strict=True)) for row in adjugate], axis=-1)
    determinant = xx * adjugate[0][0] + xy * adjugate[0][1] + xz * adjugate[0][2]
    # Known pixels on a line leave only rounding, 1e-16 of this product; four in a square at a corner leave 1e-11.
    vectors[determinant <= 1e-14 * xx * yy * zz] = np.nan
    facing = np.where((vectors * rays).sum(-1) < 0, -1, 1)
    return np.asarray(vectors * (facing / np.linalg.norm(vectors, axis=-1))[..., None])


def gravity(normals: Array) -> Array:
    """The direction `(3,)` that most surfaces are parallel or perpendicular to, nearest to the picture's own down.

    Surfaces within 45 degrees, and then within 15, of level or upright vote; floors pull the direction towards their
    normals, walls push it away from theirs.

    Args:
        normals: `(..., 3)`; those that are NaN do not vote.
    """
    vectors = normals.reshape(-1, 3)
    vectors = vectors[np.isfinite(vectors[:, 0])]
    down = np.array([0.0, 1.0, 0.0])
    for limit in np.radians([45] * 5 + [15] * 5):
        cosine = np.abs(vectors @ down)
        floors, walls = vectors[cosine > np.cos(limit)], vectors[cosine < np.sin(limit)]
        # A breath in favour of what is, which decides where nothing else does, as before a single wall.
        habit = 1e-6 * (len(vectors) + 1) * np.outer(down, down)
        axis = np.linalg.eigh(walls.T @ walls - floors.T @ floors - habit).eigenvectors[:, 0]
        down = axis * np.copysign(1, axis @ down)
    return down


def write_hha(folder: str | Path, out: str | Path, *, camera: Camera, metres_per_unit: float = 0.001) -> list[Path]:
    """Writes an HHA picture for every depth picture of a folder, and gives their paths.

    Args:
        folder: Depth pictures of 16 bits, 0 where nothing is known.
        out: A new folder; the pictures keep their names and come as PNG, disparity in red, height in green, angle in
            blue, as the authors' files do.
        camera: What took them, such as `NYUD_CAMERA`. Another one's gives wrong heights and angles that look right.
        metres_per_unit: 0.001 for millimetres.

    Raises:
        FullyconvError: SEG-D011 if there is no depth, SEG-D023 if `out` holds anything.
    """
    folder, out = Path(folder), Path(out)
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise FullyconvError("SEG-D011", f"{folder} holds no pictures of depth")
    if out.exists() and any(out.iterdir()):
        raise FullyconvError("SEG-D023", f"{out} exists and is not empty; name a folder that does not exist yet")
    out.mkdir(parents=True, exist_ok=True)
    written = [out / f"{file.stem}.png" for file in files]
    for file, picture in zip(files, written, strict=True):
        convert(file, picture, camera=camera, metres_per_unit=metres_per_unit)
    return written


def convert(file: Path, out: Path, *, camera: Camera, metres_per_unit: float) -> None:
    """Writes the HHA picture of one depth picture, as `write_hha` does those of a folder.

    Raises:
        FullyconvError: SEG-D011 if it is no picture of depth.
    """
    depth = read_raw_mask(file)
    if depth.ndim != 2:
        raise FullyconvError("SEG-D011", f"{file} is a picture in colour; depth is one number per pixel")
    write_picture(out, Image.fromarray(hha(depth * metres_per_unit, camera)))


def _box_sums(channels: Array, radius: int) -> Array:
    """The sums of `(H, W, C)` over the square around each pixel; beyond the border is nothing."""
    side = 2 * radius + 1
    rows = torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1)))
    sums = avg_pool2d(rows, (side, 1), 1, (radius, 0), divisor_override=1)
    return avg_pool2d(sums, (1, side), 1, (0, radius), divisor_override=1).permute(1, 2, 0).numpy()
