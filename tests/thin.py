"""The paper's networks with an eighth of their channels: every layer, name and offset, at a hundredth of the cost."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from fullyconv.models.classic import CLASSICS, ClassicNet, Geometry, Layers, Rectified, in_geometry
from fullyconv.surgery import convolutionalize

SHARE = 8


def make_thin(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Lets `models.create` build thin networks of these trunks, for the length of a test."""
    for name in names:
        monkeypatch.setitem(CLASSICS, name, replace(CLASSICS[name], layers=_thinned(CLASSICS[name].layers)))


def trunk_of(name: str, strides: Sequence[int], geometry: Geometry = "same") -> nn.Module:
    """The trunk of one of the paper's networks, as `models.create` makes it."""
    classic = CLASSICS[name]
    dense = convolutionalize(ClassicNet(name), (classic.size, classic.size))
    return in_geometry(dense.trunk(strides, classic.taps), geometry)


def _thinned(layers_of: Callable[[int], Layers]) -> Callable[[int], Layers]:
    def thin(bands: int) -> Layers:
        with torch.device("meta"):
            layers = nn.ModuleDict(layers_of(bands))
        for name, wide in list(layers.named_modules()):
            parent, _, leaf = name.rpartition(".")
            if isinstance(wide, nn.Conv2d):
                first = wide.in_channels == bands
                narrow: nn.Module = Rectified(
                    bands if first else wide.in_channels // SHARE,
                    wide.out_channels // SHARE,
                    wide.kernel_size,
                    wide.stride,
                    wide.padding,
                    groups=wide.groups,
                )
            elif isinstance(wide, nn.Linear):
                narrow = nn.Linear(wide.in_features // SHARE, wide.out_features // SHARE)
            else:
                continue
            layers.get_submodule(parent)._modules[leaf] = narrow
        return dict(layers.items())

    return thin
