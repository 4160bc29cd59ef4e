"""The paper's networks with an eighth of their channels: every layer, name and offset, at a hundredth of the cost."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fullyconv.models.classic import CLASSICS, Classic, Geometry, Layers, Rectified

SHARE = 8


def make_thin(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Lets `models.create` build thin networks of these trunks, for the length of a test."""
    for name in names:
        classic = CLASSICS[name]
        monkeypatch.setitem(CLASSICS, name, Classic(_thinned(classic.layers), classic.taps))


def _thinned(layers_of: Callable[[int, Geometry], Layers]) -> Callable[[int, Geometry], Layers]:
    def thin(bands: int, geometry: Geometry) -> Layers:
        with torch.device("meta"):
            layers = nn.ModuleDict(layers_of(bands, geometry))
        for name, wide in list(layers.named_modules()):
            if isinstance(wide, nn.Conv2d):
                first = wide.in_channels == bands
                parent = layers.get_submodule(name.rpartition(".")[0])
                parent._modules[name.rpartition(".")[2]] = Rectified(
                    bands if first else wide.in_channels // SHARE,
                    wide.out_channels // SHARE,
                    wide.kernel_size,
                    wide.stride,
                    wide.padding,
                    groups=wide.groups,
                )
        return dict(layers.items())

    return thin
