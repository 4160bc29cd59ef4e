"""The fully convolutional network: scores at several strides, fused by aligned upscoring, brought up to the image."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fullyconv.geometry import Grid, upscore_kernel
from fullyconv.kernels import upsample
from fullyconv.surgery import Trace

Upscoring = Literal["fixed", "learned", "all"]
Alignment = Literal["grid", "centred"]

LARGEST_LOG = math.log(65535)  # the logarithm of the largest number in a picture of 16 bits, which is 1 in an image


class Upscore(nn.Module):
    """Upsamples a coarse score map onto a finer grid by a transposed convolution that starts as exact bilinear.

    Where the grids start decides the kernel: a ResNet's cells lie at pixels 0, 32, 64, ..., so its kernel is 3 wide;
    a VGG's lie at 15.5, 47.5, ..., so its kernel is the paper's, 4 wide. Beyond its outermost cells the coarse map
    continues with their values.

    Args:
        num_classes: Score channels; each is upsampled on its own.
        coarse: The grid of the map that comes in.
        fine: The grid of the map that goes out.
        learned: Whether the kernel is trained; else it is a buffer.

    Source: Long, Shelhamer and Darrell 2015, sections 3.3 and 4.2.
    """

    weight: Tensor

    def __init__(self, num_classes: int, coarse: Grid, fine: Grid, *, learned: bool = False) -> None:
        super().__init__()
        factor = coarse.stride / fine.stride
        if factor.denominator != 1:
            raise ValueError(
                f"stride {coarse.stride} is no multiple of stride {fine.stride}, so nothing can be upscored"
            )
        self.factor = int(factor)
        self.offset: Fraction = (coarse.start - fine.start) / fine.stride
        taps, self.lead = upscore_kernel(self.factor, self.offset)
        kernel = torch.outer(torch.tensor(taps), torch.tensor(taps)).expand(num_classes, 1, -1, -1).clone()
        if learned:
            self.weight = nn.Parameter(kernel)
        else:
            self.register_buffer("weight", kernel, persistent=False)

    def forward(self, scores: Float[Tensor, "n k h w"], size: tuple[int, int]) -> Float[Tensor, "n k fine_h fine_w"]:
        """The score map on the fine grid.

        Args:
            scores: On the coarse grid.
            size: Height and width of the fine map.
        """
        before = max(0, math.ceil(self.offset / self.factor))
        for axis, fine in zip((2, 3), size, strict=True):
            scores = _extended(scores, axis, before, self._last_cell(fine))
        first = self.factor * before + self.lead
        return self.spread(scores).narrow(2, first, size[0]).narrow(3, first, size[1])

    def _last_cell(self, fine: int) -> int:
        """The coarse cell on or after the last of `fine` fine ones; by whole numbers, as symbolic sizes need."""
        unit = self.offset.denominator
        return (unit * (fine - 1 + self.factor) - self.offset.numerator - 1) // (unit * self.factor)

    def extra_repr(self) -> str:
        return f"factor={self.factor}, offset={self.offset}"

    def spread(self, scores: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k wide_h wide_w"]:
        """The whole transposed convolution, uncropped, of a map that is zero beyond its border."""
        return F.conv_transpose2d(scores, self.weight.to(scores.dtype), stride=self.factor, groups=scores.shape[1])


def _extended(scores: Tensor, dim: int, before: int, last: int) -> Tensor:
    """The map from `before` cells ahead of it to cell `last` or beyond, its first and last row or column repeated."""
    cells = scores.shape[dim]
    if torch.compiler.is_exporting():  # whether anything is missing depends on the size, and the graph is for all sizes
        return scores.index_select(dim, torch.arange(-before, last + 1, device=scores.device).clamp(0, cells - 1))
    # Unlike the gradients of `F.pad` and `index_select`, that of `cat` is deterministic on GPUs.
    parts = [scores.narrow(dim, 0, 1)] * before + [scores] + [scores.narrow(dim, cells - 1, 1)] * (last + 1 - cells)
    return torch.cat(parts, dim) if len(parts) > 1 else scores


class FCN(nn.Module):
    """A fully convolutional network after Long, Shelhamer and Darrell, over any trunk with maps at several strides.

    Each tap of the trunk is scored by a 1 x 1 convolution that starts at zero; from the coarsest on, scores are
    upscored onto the next finer tap and summed. The last map is upsampled to the image by bilinear interpolation.
    Every step follows the grids that the trunk's own arithmetic gives, so scores stand where their evidence is.

    Args:
        trunk: Gives one map per tap, finest first, for a normalised image `(N, C, H, W)`.
        trace: The grids and channels of those maps on the image, finest first.
        num_classes: Score channels K.
        mean: Of each band of the training images, in [0, 1]; subtracted first.
        std: Of each band; divided by next.
        upscore: `fixed` keeps every upsampling bilinear, as the authors' release does; `learned` trains the kernels
            between taps, as the paper of 2015 says; `all` trains the last one too.
        dropout: Probability of dropping a value of the coarsest tap before it is scored.
        tap_scales: What each tap is multiplied by before it is scored, finest first: the authors' net that is trained
            at once scales pool3 by 0.0001 and pool4 by 0.01, so that all streams learn at like speeds.
        log_bands: Bands whose logarithm the network sees, such as depth's: for a number n of a picture of 16 bits,
            ln(n) / ln(65535), and 0 for 0.
        score_size: Height and width of the kernel that scores the coarsest tap; odd.
        least_size: Smaller images are zero-padded at the right and bottom to this height and width; the coarsest
            stride if left out.
        size_multiple: Images are zero-padded at the right and bottom to a multiple of this, for trunks whose own
            padding depends on the size of the image.

    Source: Long, Shelhamer and Darrell 2015, section 4; Shelhamer, Long and Darrell 2017.
    """

    mean: Tensor
    std: Tensor
    log_bands: Tensor | None  # which bands they are, (1, C, 1, 1)

    def __init__(
        self,
        trunk: nn.Module,
        trace: Trace,
        num_classes: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        upscore: Upscoring = "fixed",
        dropout: float = 0.0,
        tap_scales: Sequence[float] | None = None,
        log_bands: Sequence[int] = (),
        score_size: Sequence[int] = (1, 1),
        least_size: int | None = None,
        size_multiple: int = 1,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        chosen = torch.tensor([band in log_bands for band in range(len(mean))]).view(1, -1, 1, 1)
        self.register_buffer("log_bands", chosen if log_bands else None)
        self.trunk = trunk
        self.grids = trace.grids
        self.global_operations = trace.global_operations
        self.num_classes = num_classes
        self.least_size = int(trace.grids[-1].stride) if least_size is None else least_size
        self.size_multiple = size_multiple
        self.dropout = nn.Dropout(dropout)
        self.tap_scales = tuple(tap_scales or (1.0,) * len(trace.grids))
        # Keyed by stride, finest first, so that the weights of FCN-32s are found again in FCN-16s and FCN-8s.
        self.score_layers = nn.ModuleDict(
            {
                f"stride{grid.stride}": zero_score_layer(
                    channels, num_classes, score_size if grid == self.coarsest else (1, 1)
                )
                for grid, channels in zip(self.grids, trace.channels, strict=True)
            }
        )
        self.upscore_layers = nn.ModuleDict(
            {
                f"stride{coarse.stride}": Upscore(num_classes, coarse, fine, learned=upscore != "fixed")
                for fine, coarse in zip(self.grids, self.grids[1:], strict=False)
            }
        )
        if upscore == "all":
            self.upscore_layers["image"] = Upscore(num_classes, self.grids[0], Grid(), learned=True)

    def extra_repr(self) -> str:
        """What the scores depend on besides the layers; the graphs that are kept of a network go by it."""
        grids = ", ".join(f"{grid.stride} from {grid.start}" for grid in self.grids)
        sizes = f"least_size={self.least_size}, size_multiple={self.size_multiple}"
        return f"grids=({grids}), tap_scales={self.tap_scales}, {sizes}"

    @property
    def grid(self) -> Grid:
        """Where the scores lie on the image; those of a net whose last kernel is trained lie on its pixels."""
        return Grid() if "image" in self.upscore_layers else self.grids[0]

    @property
    def coarsest(self) -> Grid:
        """The grid of the deepest tap: its stride is what tiles snap to, its field what they must carry along."""
        return self.grids[-1]

    def scores(self, image: Float[Tensor, "n c height width"]) -> Float[Tensor, "n k h w"]:
        """The fused scores on `grid`, before they are brought up to the image.

        Args:
            image: In [0, 1], any height and width from 1 up.
        """
        taps = self.trunk(self._padded((self._with_logarithms(image) - self.mean) / self.std))
        scaled = [tap if scale == 1 else tap * scale for tap, scale in zip(taps, self.tap_scales, strict=True)]
        scores = [
            layer(tap)
            for layer, tap in zip(self.score_layers.values(), (*scaled[:-1], self.dropout(scaled[-1])), strict=True)
        ]
        return self._fused(scores, (image.shape[2], image.shape[3]))

    def _fused(self, scores: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """The scores of all taps in one map on `grid`.

        Args:
            scores: Of each tap, finest first.
            size: Height and width of the image.
        """
        fused = scores[-1]
        for score, fine in zip(reversed(scores[:-1]), reversed(self.grids[:-1]), strict=True):
            fused = score + self._upscore_onto(fine)(fused, (score.shape[2], score.shape[3]))
        return self._upscore_onto(Grid())(fused, size) if "image" in self.upscore_layers else fused

    def _upscore_onto(self, fine: Grid) -> Upscore:
        """The layer that gives maps on a grid: a tap's, or that of the image's pixels."""
        upscores: list[Upscore] = list(self.upscore_layers.values())  # type: ignore[arg-type]
        return upscores[self.grids.index(fine) if fine in self.grids else -1]

    def forward(self, image: Float[Tensor, "n c height width"]) -> Float[Tensor, "n k height width"]:
        """Logits as large as the image.

        Args:
            image: In [0, 1], any height and width from 1 up.
        """
        return upsample(self.scores(image).float(), (image.shape[2], image.shape[3]), grid=self.grid)

    def _with_logarithms(self, image: Tensor) -> Tensor:
        if self.log_bands is None:
            return image
        return torch.where(self.log_bands, 1 + image.clamp(min=math.exp(-LARGEST_LOG)).log() / LARGEST_LOG, image)

    def _padded(self, image: Tensor) -> Tensor:
        bottom, right = (_missing(size, self.least_size, self.size_multiple) for size in image.shape[2:])
        if torch.compiler.is_exporting() or bottom or right:
            return F.pad(image, (0, right, 0, bottom))
        return image


def _missing(size: int, least: int, multiple: int) -> int:
    whole = (size + multiple - 1) // multiple * multiple
    return torch.sym_max(least, whole) - size  # type: ignore[return-value]


def zero_score_layer(channels: int, num_classes: int, kernel_size: Sequence[int] = (1, 1)) -> nn.Conv2d:
    """A convolution whose weights and biases are zero, so that a new tap leaves the prediction as it was.

    Args:
        channels: Of the tap.
        num_classes: Score channels.
        kernel_size: Height and width, odd; larger than 1 x 1 only where a classifier's own head reads a map so large.

    Source: Long, Shelhamer and Darrell 2015, sections 4.2 and 4.3.
    """
    height, width = kernel_size
    layer = nn.Conv2d(channels, num_classes, (height, width), padding=(height // 2, width // 2))
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
