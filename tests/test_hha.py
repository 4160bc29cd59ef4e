"""HHA on scenes whose geometry is known: a room seen by a tilted camera, and planes by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fullyconv.errors import FullyconvError
from fullyconv.hha import GRAVITY_RADIUS, NYUD_CAMERA, Camera, gravity, hha, normals, write_hha

Array = np.ndarray[Any, Any]
CAMERA = Camera(120.0, 118.0, 79.5, 59.5)
SIZE = (120, 160)
FAR = 5.0


def tilted(pitch: float, roll: float = 0.0) -> Array:
    """The direction of gravity as a camera sees it that looks down by so many degrees and leans to the side."""
    pitch, roll = np.radians((pitch, roll))
    return np.array([np.sin(roll), np.cos(roll) * np.cos(pitch), np.cos(roll) * np.sin(pitch)])


def plane(normal: Array, distance: float, camera: Camera = CAMERA, size: tuple[int, int] = SIZE) -> Array:
    """The depth of a plane so far away along its normal; infinite where it is not seen."""
    depth = distance / (camera.rays(*size) @ normal)
    return np.where(depth > 0, depth, np.inf)


def room(down: Array, *, floor: float = 1.2, wall: float = 3.0, ceiling: float = 1.1) -> tuple[Array, Array]:
    """The depth of a room, and which plane is seen: 0 floor, 1 wall, 2 ceiling; distances in metres."""
    ahead = np.array([0.0, 0.0, 1.0]) - down[2] * down
    planes = [plane(down, floor), plane(ahead / np.linalg.norm(ahead), wall), plane(-down, ceiling)]
    return np.min(planes, axis=0), np.argmin(planes, axis=0)


def inner(seen: Array, which: int, margin: int = 4) -> Array:
    """Pixels of a plane whose squares hold no other plane."""
    padded = np.pad(seen == which, margin, constant_values=False)
    shifts = range(2 * margin + 1)
    height, width = seen.shape
    return np.all([padded[i : i + height, j : j + width] for i in shifts for j in shifts], axis=0)


@pytest.mark.parametrize("pitch", [-20, 0, 15, 35])
@pytest.mark.parametrize("roll", [-8, 0, 8])
def test_gravity_is_found_within_a_degree(pitch: float, roll: float) -> None:
    down = tilted(pitch, roll)
    depth, _ = room(down)
    rays = CAMERA.rays(*SIZE)
    found = gravity(normals(depth, rays, depth > 0, GRAVITY_RADIUS))
    assert np.degrees(np.arccos(found @ down)) < 1


@pytest.mark.parametrize(("pitch", "which", "expected"), [(15, 0, 38), (15, 1, 128), (-15, 1, 128), (-15, 2, 218)])
def test_floor_wall_and_ceiling_have_their_angles(pitch: float, which: int, expected: int) -> None:
    depth, seen = room(tilted(pitch))
    pixels = hha(depth, CAMERA)[..., 2][inner(seen, which)].astype(int)
    assert len(pixels) > 300
    assert np.abs(pixels - expected).max() <= 1


def test_height_is_that_above_the_floor_in_centimetres() -> None:
    down = tilted(20, 3)
    depth, seen = room(down, floor=1.2)
    height = hha(depth, CAMERA)[..., 1].astype(int)
    assert np.abs(height[seen == 0]).max() <= 1
    points = CAMERA.rays(*SIZE) * depth[..., None]
    assert np.abs(height - (120 - 100 * points @ down)).max() <= 3  # gravity is found within half a degree


def test_without_anything_low_the_ground_is_130_cm_below_the_camera() -> None:
    height = hha(np.full(SIZE, 2.0), Camera(1000.0, 1000.0, 79.5, 59.5))[..., 1]
    assert set(height[59:61].ravel()) == {130}
    assert height.max() == 142  # 59.5 pixels up, at 2 m and a focal length of 1000 pixels


@pytest.mark.parametrize(
    ("metres", "expected"), [(0.4, 255), (1.0, 255), (1.24, 250), (4.96, 63), (10.0, 31), (60.0, 5), (1e9, 0)]
)
def test_disparity_is_rounded_and_cut_as_by_matlab(metres: float, expected: int) -> None:
    assert hha(np.full((30, 40), metres), CAMERA)[15, 20, 0] == expected


def test_nobody_guesses_the_camera(tmp_path: Path) -> None:
    for guess in (lambda: hha(np.ones(SIZE)), lambda: write_hha(tmp_path, tmp_path)):  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="camera"):
            guess()


def test_where_nothing_is_known_the_disparity_is_the_nearest() -> None:
    depth = np.full(SIZE, 2.0)
    depth[40:80, 40:120] = (0, np.nan) * 40
    disparity = hha(depth, CAMERA)[..., 0]
    assert set(disparity[40:80, 40:120].ravel()) == {255}
    assert set(disparity[:40].ravel()) == {155}


def test_where_no_surface_is_known_the_angle_is_180() -> None:
    depth = np.full(SIZE, 2.0)
    depth[40:80, 40:120] = 0
    depth[0, 0] = np.nan
    angle = hha(depth, CAMERA)[..., 2]
    assert (angle[44:76, 44:116] == 180 + 38).all()
    assert (angle[:36] == 128).all()


def test_filled_holes_count_for_distance_and_not_for_planes() -> None:
    depth, seen = room(tilted(10))
    known = np.ones(SIZE, bool)
    known[::5] = False
    filled = np.where(known, depth, 1.3 * depth)
    expected, found = hha(depth, CAMERA), hha(filled, CAMERA, known=known)
    whole = inner(seen, 1)
    assert np.abs(found[..., 2].astype(int) - expected[..., 2])[whole].max() <= 1
    assert (found[..., 0][whole & ~known] < expected[..., 0][whole & ~known]).all()


def test_normals_are_those_of_a_least_squares_fit() -> None:
    random = np.random.default_rng(0)
    depth = 2 + 0.2 * random.random((12, 14))
    known = random.random(depth.shape) < 0.8
    camera = Camera(12.0, 12.0, 6.5, 5.5)
    rays = camera.rays(*depth.shape)
    found = normals(depth, rays, known, 2)
    for row, column in [(0, 0), (5, 7), (11, 13), (3, 1)]:
        near = (slice(max(0, row - 2), row + 3), slice(max(0, column - 2), column + 3))
        fit, *_ = np.linalg.lstsq(rays[near][known[near]], 1 / depth[near][known[near]], rcond=None)
        fit /= np.linalg.norm(fit) * np.sign(fit @ rays[row, column])
        assert found[row, column] == pytest.approx(fit, abs=1e-9)


def test_points_on_a_line_make_no_plane() -> None:
    depth = np.full((9, 9), 2.0)
    known = np.zeros((9, 9), bool)
    known[4] = True
    assert np.isnan(normals(depth, CAMERA.rays(9, 9), known, 2)).all()
    known[5, 4] = True
    assert np.isfinite(normals(depth, CAMERA.rays(9, 9), known, 2)[4, 4]).all()


def test_without_surfaces_down_is_the_pictures_own() -> None:
    assert gravity(np.full((4, 4, 3), np.nan)).tolist() == [0, 1, 0]


def test_a_folder_of_depth_becomes_pictures_with_disparity_in_red(tmp_path: Path) -> None:
    (tmp_path / "depth").mkdir()
    depth = np.full((60, 80), 3100, np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth" / "a.png")
    (written,) = write_hha(tmp_path / "depth", tmp_path / "hha", camera=CAMERA, metres_per_unit=0.001)
    assert written == tmp_path / "hha" / "a.png"
    picture = np.array(Image.open(written))
    assert picture[30, 40].tolist() == [100, hha(depth / 1000, CAMERA)[30, 40, 1], 128]


def test_folders_that_are_no_depth_are_refused(tmp_path: Path) -> None:
    (tmp_path / "color").mkdir()
    with pytest.raises(FullyconvError, match=r"SEG-D011 .*color holds no pictures of depth"):
        write_hha(tmp_path / "color", tmp_path / "hha", camera=CAMERA)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "color" / "a.png")
    with pytest.raises(FullyconvError, match=r"SEG-D011 .*a\.png is a picture in colour"):
        write_hha(tmp_path / "color", tmp_path / "hha", camera=CAMERA)
    with pytest.raises(FullyconvError, match="SEG-D023"):
        write_hha(tmp_path / "color", tmp_path / "color", camera=CAMERA)


def test_a_real_desk_is_as_high_as_desks_are(data_root: Path) -> None:
    depth = np.array(Image.open(data_root / "ycb_video_sample" / "data" / "0000" / "000001-depth.png")) / 10000
    camera = Camera(1066.778, 1067.487, 312.9869, 241.3109)  # YCB-Video's
    _, height, angle = np.moveaxis(hha(depth, camera), -1, 0)
    desk, floor = (slice(300, 330), slice(60, 120)), (slice(440, 475), slice(40, 140))
    assert 70 <= np.median(height[desk]) - np.median(height[floor]) <= 80
    assert np.median(angle[180:230, 30:150]) < 38 + 10
    assert abs(np.median(angle[250:280, 220:260]) - 128) < 20  # the side of the box


def test_nyud_camera_counts_pixels_from_zero() -> None:
    assert (NYUD_CAMERA.centre_x, NYUD_CAMERA.centre_y) == pytest.approx((324.5824, 252.7362), abs=1e-4)
