"""Augmentation: scale, crop, shift, flip and light, drawn from one generator and applied alike to image and masks."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

LUMINANCE = (0.2989, 0.587, 0.114)  # of red, green and blue in grey, as torchvision has them


@dataclass(frozen=True)
class Augmentation:
    """How training samples vary. Masks are never interpolated; what lies outside the image is grey and ignored.

    Args:
        crop: Height and width of every sample, in pixels; None keeps those of its image.
        scale: Least and greatest magnification, drawn log-uniformly.
        aspect: Greatest stretch of width against height, drawn log-uniformly to either side; 1 for none.
        flip: Probability of mirroring left and right.
        light: Strength of the changes of brightness, contrast, saturation, tint and gamma; 0 for none, 1 for strong.
        peak: Brightest value of the images, where they use less than [0, 1], as 12 bits in 16 do; light keeps below it.
        focus: Probability that a crop is laid over a pixel of a class drawn evenly from those in the mask, which shows
            rare classes more often; otherwise it is laid anywhere.
        lit: How many bands light changes, the first ones: those of the image, and not those of its depth. None for all.
        shift: Greatest translation in pixels up, down, left and right, beyond the image's border too.
    """

    crop: tuple[int, int] | None = (288, 384)
    scale: tuple[float, float] = (0.6, 1.7)
    aspect: float = 1.15
    flip: float = 0.5
    light: float = 0.5
    peak: float = 1.0
    focus: float = 0.3
    lit: int | None = None
    shift: int = 0

    def shrunk(self, factor: float) -> "Augmentation":
        """The same view of smaller samples: fewer pixels, each of more of the image.

        Args:
            factor: Of the crop's sides, which stay multiples of 32, and of the magnification. Samples as large as
                their images stay as they are.
        """
        if self.crop is None:
            return self
        height, width = (max(32, round(size * factor / 32) * 32) for size in self.crop)
        return replace(self, crop=(height, width), scale=(self.scale[0] * factor, self.scale[1] * factor))

    def __call__(
        self,
        image: Shaped[Tensor, "c height width"],
        mask: Integer[Tensor, "*heads height width"],
        generator: torch.Generator,
        ignore_index: int = 255,
    ) -> tuple[Float[Tensor, "c crop_h crop_w"], Integer[Tensor, "*heads crop_h crop_w"]]:
        """One sample of `crop` size, or of the image's; its bits do not depend on the number of threads.

        Args:
            image: uint8, which is resized as such and thus faster, or float in [0, 1].
            mask: Class indices or `ignore_index`; of several masks, each for a head, the first one says what is rare.
            generator: The only source of chance.
            ignore_index: What the mask holds outside the image.
        """
        draw = _Draws(generator)
        crop = self.crop or (mask.shape[-2], mask.shape[-1])
        scale = draw.log_uniform(*self.scale)
        stretch = draw.log_uniform(1 / self.aspect, self.aspect)
        window = (
            max(1, round(crop[0] / scale)),
            max(1, round(crop[1] / (scale * stretch))),
        )
        first = mask.reshape(-1, *mask.shape[-2:])[0]
        anchor = _rare_pixel(first, ignore_index, draw) if draw.chance(self.focus) else None
        top, left = (
            _place(size, length, draw, None if anchor is None else anchor[axis], self.shift)
            for axis, (size, length) in enumerate(zip(first.shape, window, strict=True))
        )
        lit = image.shape[0] if self.lit is None else self.lit
        white = self.peak * (255 if image.dtype == torch.uint8 else 1)
        grey = [0.5 * white] * lit + _means(image[lit:]).tolist()
        image, mask = _cut(image, mask, (top, left), window, crop, grey, ignore_index)
        if draw.chance(self.flip):
            image, mask = image.flip(-1), mask.flip(-1)
        image = tv.to_dtype(image, torch.float32, scale=True)
        if self.light:
            bright = _relight(image[:lit], self.light, self.peak, draw)
            image = torch.cat((bright, image[lit:])) if lit < len(image) else bright
        return image, mask


def conceal(
    image: Float[Tensor, "*n c height width"],
    mask: Integer[Tensor, "*n height width"],
    *,
    foreground: float | None = None,
    background: float | None = None,
    background_class: int = 0,
    ignore_index: int = 255,
) -> Float[Tensor, "*n c height width"]:
    """The image without what the truth calls foreground or background: which of them, or the mere shape, tells a class?

    Args:
        image: In [0, 1].
        mask: Class indices or `ignore_index`. Ignored pixels, such as the border around an object, show something of
            both, and are concealed with either.
        foreground: What every band of the foreground becomes; None keeps it.
        background: What every band of the background becomes; None keeps it. With unlike values for both, only the
            shape of objects is left.
        background_class: All other classes are foreground.
        ignore_index: The mask value of pixels that do not count.

    Source: Shelhamer, Long and Darrell 2017, section 6, table 8; the paper does not say which values it fills in.
    """
    ignored = (mask == ignore_index).unsqueeze(-3)
    behind = (mask == background_class).unsqueeze(-3)
    if foreground is not None:
        image = torch.where(behind, image, foreground)
    if background is not None:
        image = torch.where(behind | ignored, background, image)
    return image


class _Draws:
    """Numbers from a generator, one after the other."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability

    def below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))


def _rare_pixel(mask: Tensor, ignore_index: int, draw: _Draws) -> tuple[int, int] | None:
    """A pixel of a class that is drawn evenly from those present, or None where all is ignored."""
    counts = torch.bincount(mask.flatten(), minlength=ignore_index + 1)
    counts[ignore_index] = 0
    present = counts.nonzero().flatten()
    if not len(present):
        return None
    pixels = (mask.flatten() == present[draw.below(len(present))]).nonzero().flatten()
    return divmod(int(pixels[draw.below(len(pixels))]), mask.shape[1])


def _place(size: int, length: int, draw: _Draws, anchor: int | None, shift: int) -> int:
    """Where a window of `length` begins on an axis of `size` pixels, over `anchor` if there is one; then moved by up to
    `shift` to either side, as far as it keeps something of the axis."""
    low, high = min(0, size - length), max(0, size - length)
    if anchor is not None:
        low, high = max(low, anchor - length + 1), min(high, anchor)
    start = low + draw.below(high - low + 1)
    back, ahead = max(-shift, 1 - length - start), min(shift, size - 1 - start)
    return start + back + draw.below(ahead - back + 1) if shift else start


def _cut(
    image: Tensor,
    mask: Tensor,
    corner: tuple[int, int],
    window: tuple[int, int],
    size: tuple[int, int],
    grey: list[float],
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """The window, padded where it leaves the image and resized: linear for the image, nearest for the mask."""
    top, left = corner
    height, width = mask.shape[-2:]
    inside = (
        slice(max(0, top), min(height, top + window[0])),
        slice(max(0, left), min(width, left + window[1])),
    )
    image, mask = image[:, *inside], mask[..., *inside]
    padding = [
        max(0, -left),
        max(0, -top),
        max(0, left + window[1] - width),
        max(0, top + window[0] - height),
    ]
    if any(padding):
        image = tv.pad(tv_tensors.Image(image), padding, fill=grey)
        mask = tv.pad(tv_tensors.Mask(mask), padding, fill=ignore_index)
    image = tv.resize(tv_tensors.Image(image), list(size), InterpolationMode.BILINEAR, antialias=True)
    # Nearest-exact reads the pixel under the centre, as linear does; plain nearest would shift masks by half a pixel.
    mask = tv.resize(mask[None].as_subclass(Tensor), list(size), InterpolationMode.NEAREST_EXACT)[0]
    return image.as_subclass(Tensor), mask


def _relight(image: Tensor, strength: float, peak: float, draw: _Draws) -> Tensor:
    """Other light, between black and `peak`: gamma, brightness, contrast, a tint per band, and saturation where there
    is colour."""
    bands = image.shape[0]
    gamma = draw.log_uniform(1 / (1 + strength), 1 + strength)
    contrast = draw.log_uniform(1 / (1 + 0.6 * strength), 1 + 0.6 * strength)
    brightness = draw.uniform(-0.25 * strength, 0.25 * strength)
    tint = torch.tensor([draw.uniform(1 - 0.2 * strength, 1 + 0.2 * strength) for _ in range(bands)])
    # As `pow`, in a third of its time.
    image = (image / peak).clamp_(0, 1).log2_().mul_(gamma).exp2_()
    # All that follows is linear in the bands, so it is done to a matrix, and to the pixels in one pass.
    mean = (tint * _means(image)).mean()
    mix, shift = contrast * tint.diag(), ((1 - contrast) * mean + brightness).expand(bands)
    if bands == 3:
        saturation = draw.uniform(1 - 0.7 * strength, 1 + 0.7 * strength)
        blend = saturation * torch.eye(3) + (1 - saturation) * torch.tensor(LUMINANCE)
        mix, shift = blend @ mix, blend @ shift
    return torch.addmm(shift[:, None], mix, image.flatten(1)).view_as(image).clamp_(0, 1).mul_(peak)


def _means(image: Shaped[Tensor, "c h w"]) -> Float[Tensor, " c"]:
    """The mean of each band: row by row first, since threads would share out the sum of a whole band."""
    return image.float().mean(2).mean(1)
