"""Late fusion: a network for each kind of picture of a scene, and the mean of their scores."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullyconv.geometry import Grid
from fullyconv.models.fcn import FCN


class LateFusion(FCN):
    """Networks that see different bands of an image, and whose scores are added up, each times its weight.

    Made of trained networks, `LateFusion([colors, hha])` is where the authors' RGB-HHA network starts from; the weights
    stay fixed, and all towers are trained together.

    Args:
        towers: Networks of as many classes and on the same grid; the first sees the first bands of the image, and so
            on. They are not copied.
        weights: Of the scores of each tower; shares of one alike if left out.

    Raises:
        ValueError: If the towers' scores cannot be added.

    Source: Long, Shelhamer and Darrell 2015, section 5, on NYUDv2; 0.5 and 0.5 in the authors' nyud-fcn32s-color-hha.
    """

    weights: Tensor

    def __init__(self, towers: Sequence[FCN], weights: Sequence[float] | None = None) -> None:
        nn.Module.__init__(self)
        first = towers[0]
        for tower in towers:
            if (tower.num_classes, tower.grids, tower.grid) != (first.num_classes, first.grids, first.grid):
                raise ValueError("the scores of towers can be added only if they are of the same classes and grids")
        self.towers: Sequence[FCN] = nn.ModuleList(towers)  # type: ignore[assignment]
        self.register_buffer("weights", torch.tensor(weights or [1 / len(towers)] * len(towers)))
        self.num_classes = first.num_classes
        self.grids = first.grids
        self.global_operations = tuple(dict.fromkeys(name for tower in towers for name in tower.global_operations))
        # The towers have these; here there are none, for whoever looks through all networks.
        self.score_layers, self.upscore_layers = nn.ModuleDict(), nn.ModuleDict()

    def extra_repr(self) -> str:
        return ""  # the towers tell it

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Of each band of the image, `(1, C, 1, 1)`, tower after tower."""
        return torch.cat([tower.mean for tower in self.towers], 1)

    @property
    def std(self) -> Tensor:  # type: ignore[override]
        """Of each band of the image, `(1, C, 1, 1)`, tower after tower."""
        return torch.cat([tower.std for tower in self.towers], 1)

    @property
    def grid(self) -> Grid:
        """Where the scores lie on the image: that of every tower."""
        return self.towers[0].grid

    def scores(self, image: Float[Tensor, "n c height width"]) -> Float[Tensor, "n k h w"]:
        """The weighted sum of the towers' scores, on their grid.

        Args:
            image: In [0, 1], the bands of all towers; any height and width from 1 up.
        """
        bands = torch.split(image, [tower.mean.shape[1] for tower in self.towers], dim=1)
        parts = [
            weight * tower.scores(part) for weight, tower, part in zip(self.weights, self.towers, bands, strict=True)
        ]
        return torch.stack(parts).sum(0)
