"""What is computed on: made up, the same in every run, and shaped as real data are."""

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def smooth_scores(batch: int, classes: int, height: int, width: int) -> Tensor:
    """Blobs of 16 cells and a little noise `(N, K, h, w)`: what a trained network's scores look like."""
    torch.manual_seed(0)
    blobs = F.interpolate(3 * torch.randn(batch, classes, height // 16 + 2, width // 16 + 2), size=(height, width))
    blobs = F.avg_pool2d(F.pad(blobs, (4, 4, 4, 4), "replicate"), 9, stride=1)
    return blobs + 0.15 * torch.randn_like(blobs)


def noise_scores(batch: int, classes: int, height: int, width: int) -> Tensor:
    """White noise `(N, K, h, w)`: the worst case, in which every class may win anywhere."""
    torch.manual_seed(0)
    return torch.randn(batch, classes, height, width)


def mask(classes: int, size: Size) -> Tensor:
    """Regions of classes as a person draws them, uint8 `(height, width)`, 255 along the upper edge."""
    scores = smooth_scores(1, classes, -(-size[0] // 8), -(-size[1] // 8))
    drawn = F.interpolate(scores, size=size, mode="bilinear").argmax(1)[0].to(torch.uint8)
    drawn[: size[0] // 50 + 1] = 255
    return drawn


def image(batch: int, size: Size, channels: int = 3) -> Tensor:
    """Pictures in [0, 1] `(N, C, height, width)`: large shapes, and the grain of a camera."""
    torch.manual_seed(0)
    shapes = F.interpolate(torch.rand(batch, channels, 12, 16), size=size, mode="bicubic")
    return (shapes + 0.03 * torch.randn_like(shapes)).clamp(0, 1)
