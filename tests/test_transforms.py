"""Laws of augmentation, and of concealing what the truth tells apart."""

import pytest
import torch

from fullyconv.transforms import Augmentation, _Draws, _relight, conceal


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_are_functions_of_the_generator():
    image, mask = torch.rand(3, 40, 50), torch.randint(0, 3, (40, 50), dtype=torch.uint8)
    augment = Augmentation(crop=(24, 32))
    first, again, other = (augment(image, mask, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_samples_of_bytes_are_those_of_numbers():
    image, mask = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8), torch.zeros(40, 50, dtype=torch.uint8)
    augment = Augmentation(crop=(48, 32), light=0, shift=9)
    for seed in range(10):
        of_bytes, first = augment(image, mask, generator(seed))
        of_numbers, second = augment(image / 255, mask, generator(seed))
        # Half a step when it is resized along each axis, and the grey of 127.5 around it.
        assert (of_bytes - of_numbers).abs().max() <= 1.51 / 255
        assert torch.equal(first, second)


@pytest.mark.parametrize("channels", [1, 3])
def test_bits_do_not_depend_on_threads(channels):
    image, mask = torch.rand(channels, 288, 384), torch.randint(0, 3, (288, 384), dtype=torch.uint8)
    threads, samples = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            samples.append(Augmentation()(image, mask, generator())[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*samples)


def test_light_is_gamma_then_tint_contrast_brightness_and_saturation():
    image = torch.rand(3, 5, 7)
    draw = _Draws(generator())
    gamma, contrast = draw.log_uniform(1 / 2, 2), draw.log_uniform(1 / 1.6, 1.6)
    brightness, tint = draw.uniform(-0.25, 0.25), [draw.uniform(0.8, 1.2) for _ in range(3)]
    saturation = draw.uniform(0.3, 1.7)
    lit = image.double().pow(gamma) * torch.tensor(tint).view(3, 1, 1)
    lit = (lit - lit.mean()) * contrast + lit.mean() + brightness
    grey = 0.2989 * lit[0] + 0.587 * lit[1] + 0.114 * lit[2]
    expected = (grey + (lit - grey) * saturation).clamp(0, 1)
    assert torch.allclose(_relight(image, 1.0, 1.0, _Draws(generator())).double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(40, 50), (1, 1), (9, 200)])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_samples_have_the_size_of_the_crop(size, channels):
    image, mask = torch.rand(channels, *size), torch.zeros(size, dtype=torch.uint8)
    image, mask = Augmentation(crop=(24, 32))(image, mask, generator())
    assert image.shape == (channels, 24, 32)
    assert mask.shape == (24, 32)
    assert image.min() >= 0
    assert image.max() <= 1


def test_masks_are_never_interpolated():
    mask = torch.tensor([0, 7], dtype=torch.uint8).repeat(40, 20)
    for seed in range(20):
        _, cut = Augmentation(crop=(24, 32))(torch.rand(3, 40, 40), mask, generator(seed))
        assert set(cut.unique().tolist()) <= {0, 7, 255}


def test_image_and_mask_move_together():
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[20:40, 10:30] = 1
    image = mask.float().expand(3, -1, -1)
    for seed in range(20):
        cut, labels = Augmentation(crop=(64, 64), light=0, aspect=1.2)(image, mask, generator(seed))
        counted = labels != 255
        differing = ((cut[0] > 0.5) != (labels == 1)) & counted
        edge = (cut[0] > 0.02) & (cut[0] < 0.98)
        assert not (differing & ~edge).any()


def test_what_lies_outside_the_image_is_ignored():
    _, mask = Augmentation(crop=(64, 64), scale=(0.5, 0.5), aspect=1)(
        torch.rand(3, 32, 32), torch.zeros(32, 32, dtype=torch.uint8), generator()
    )
    assert set(mask.unique().tolist()) == {0, 255}
    assert int((mask == 0).sum()) == 16 * 16


def test_light_keeps_to_the_range_of_dark_images():
    image, mask = torch.rand(1, 40, 40) * 0.05, torch.zeros(40, 40, dtype=torch.uint8)
    for seed in range(20):
        cut, _ = Augmentation(crop=(32, 32), peak=0.05)(image, mask, generator(seed))
        assert cut.max() <= 0.05 + 1e-6
        assert cut.std() > 0.001


def test_all_masks_move_alike():
    mask = torch.randint(0, 5, (40, 50), dtype=torch.uint8)
    augment = Augmentation(crop=(24, 32))
    for seed in range(10):
        _, alone = augment(torch.rand(3, 40, 50), mask, generator(seed))
        _, both = augment(torch.rand(3, 40, 50), torch.stack((mask, mask + 5)), generator(seed))
        assert torch.equal(both[0], alone)
        assert torch.equal(both[1][alone != 255], alone[alone != 255] + 5)


def test_light_falls_on_the_bands_of_the_image_alone():
    depth = torch.full((1, 40, 40), 0.1)
    scene, mask = torch.cat((torch.rand(3, 40, 40), depth)), torch.zeros(40, 40, dtype=torch.uint8)
    for seed in range(5):
        cut, _ = Augmentation(crop=(64, 64), lit=3, light=1)(scene, mask, generator(seed))
        assert torch.allclose(cut[3], torch.tensor(0.1))
    colors, _ = Augmentation(crop=(64, 64), light=1)(scene[:3], mask, generator(seed))
    assert torch.equal(cut[:3], colors)


def test_focus_shows_a_rare_class():
    mask = torch.zeros(200, 200, dtype=torch.uint8)
    mask[150, 30] = 1
    augment = Augmentation(crop=(20, 20), scale=(1, 1), aspect=1, focus=1.0, light=0)
    seen = [bool((augment(torch.rand(1, 200, 200), mask, generator(seed))[1] == 1).any()) for seed in range(60)]
    assert 15 <= sum(seen) <= 45


def test_a_wholly_ignored_mask_is_no_obstacle():
    mask = torch.full((30, 30), 255, dtype=torch.uint8)
    _, cut = Augmentation(crop=(16, 16), focus=1.0)(torch.rand(3, 30, 30), mask, generator())
    assert (cut == 255).all()


JITTER = Augmentation(crop=None, scale=(1, 1), aspect=1, flip=0, light=0, focus=0, shift=3)


def test_jitter_moves_the_whole_image_and_ignores_what_it_uncovers():
    image, mask = torch.rand(3, 12, 20), torch.randint(0, 5, (12, 20), dtype=torch.uint8)
    moves = set()
    for seed in range(400):
        moved, labels = JITTER(image, mask, generator(seed))
        assert moved.shape == image.shape
        rows, columns = ((labels != 255).any(dim).nonzero().flatten() for dim in (1, 0))
        rows_lost, columns_lost = 12 - len(rows), 20 - len(columns)
        assert rows_lost <= 3
        assert columns_lost <= 3
        seen = moved[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = (rows_lost if rows[0] == 0 else 0), (columns_lost if columns[0] == 0 else 0)
        assert torch.equal(seen, image[:, top : top + len(rows), left : left + len(columns)])
        moves.add((rows_lost if rows[0] else -rows_lost, columns_lost if columns[0] else -columns_lost))
    assert moves == {(down, right) for down in range(-3, 4) for right in range(-3, 4)}


def test_jitter_leaves_something_of_the_smallest_image():
    for seed in range(20):
        _, labels = JITTER(torch.rand(1, 1, 2), torch.zeros(1, 2, dtype=torch.uint8), generator(seed))
        assert (labels == 0).any()


@pytest.mark.parametrize("focus", [0, 1])
def test_shifted_crops_show_something_of_the_image(focus):
    augment = Augmentation(crop=(20, 20), scale=(1, 1), focus=focus, shift=32)
    image, mask = torch.rand(3, 64, 64), torch.zeros(64, 64, dtype=torch.uint8)
    for seed in range(300):
        _, labels = augment(image, mask, generator(seed))
        assert (labels == 0).any()


def test_samples_of_unlike_images_keep_their_size():
    augment = Augmentation(crop=None)
    for size in ((9, 7), (40, 30)):
        image, mask = augment(torch.rand(3, *size), torch.zeros(size, dtype=torch.uint8), generator())
        assert image.shape[1:] == mask.shape == size


SCENE = torch.tensor([[0, 0, 255, 3], [1, 255, 0, 0]])


@pytest.mark.parametrize(
    ("fills", "expected"),
    [
        ({}, "abcdefgh"),
        ({"foreground": 0.5}, "ab....gh"),
        ({"background": 0.5}, "...de..."),
        ({"foreground": 1.0, "background": 0.5}, "...11..."),
    ],
)
def test_concealed_images_show_what_is_kept(fills, expected):
    image = torch.rand(2, 3, 2, 4)
    values = {letter: image.flatten(2)[:, :, place] for place, letter in enumerate("abcdefgh")}
    values |= {".": torch.full((2, 3), 0.5), "1": torch.ones(2, 3)}
    wanted = torch.stack([values[letter] for letter in expected], 2).view_as(image)
    assert torch.equal(conceal(image, SCENE.expand(2, -1, -1), **fills), wanted)


def test_any_class_can_be_the_background():
    image = torch.rand(3, 2, 4)
    concealed = conceal(image, SCENE, background=0.0, background_class=3)
    assert torch.equal(concealed[:, SCENE == 0], image[:, SCENE == 0])
    assert not concealed[:, SCENE == 3].any()
