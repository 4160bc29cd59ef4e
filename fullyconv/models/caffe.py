"""Caffe's networks under our names: heads joined, colours turned, scales folded, upsampling kernels taken apart.

pytorch-fcn keeps Caffe's names, so its files are read alike. Source: the network definitions of the authors' release.
"""

import re
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fullyconv.errors import FullyconvError
from fullyconv.models.classic import torchvision_names
from fullyconv.models.fcn import FCN
from fullyconv.models.weights import Weights
from fullyconv.surgery import bilinear_kernel

SCORES = {"score_fr": "stride32", "score_pool4": "stride16", "score_pool3": "stride8"}
SCALES = {"scale_pool4": "stride16", "scale_pool3": "stride8"}
UPSCORES = {
    "upscore2": "stride32",
    "upscore_pool4": "stride16",
    "upscore": "image",
    "upscore16": "image",
    "upscore8": "image",
}
HEADS = ("", "sem", "geo")
TOWERS = ("color", "hha")
FIRST_LAYERS = ("conv1_1", "conv1", "conv1/7x7_s2")
BRANCHES = {
    "1x1": "one",
    "3x3_reduce": "three.0",
    "3x3": "three.1",
    "5x5_reduce": "five.0",
    "5x5": "five.1",
    "pool_proj": "pooled.1",
}
VOC_CLASSES = 21
AT_ONCE = {"stride16": 0.01, "stride8": 0.0001}
BETWEEN = "between classes"  # ends the name of what an upsampling kernel carries from one class to another


class Name(NamedTuple):
    """The name of a weight in Caffe's nets, taken apart: `score_fr_sem.weight`, `conv1_1hha.bias`."""

    layer: str
    leaf: str
    tower: str = ""
    head: str = ""

    @property
    def unmarked(self) -> str:
        """The name without the mark of a tower."""
        return f"{self.layer}{self.head and '_' + self.head}.{self.leaf}"


def parsed(name: str) -> Name:
    """The layer that a weight belongs to, without the marks of a tower, of a head, or of a fourth band."""
    stem, _, leaf = name.rpartition(".")
    match = re.fullmatch(r"(.+?)(?:_bgrd)?(color|hha)?(?:_(sem|geo))?", stem)
    return Name(match[1], leaf, match[2] or "", match[3] or "") if match else Name(stem, leaf)


def towers_of(weights: Weights) -> list[Weights]:
    """The weights of each tower of a late fusion, colours first; the file's own where it has no towers.

    What stands above the towers, the last upsampling, is with each: it is linear, so it may come before their sum.
    """
    names = {text: parsed(text) for text in weights.tensors}
    marks = [tower for tower in TOWERS if tower in {name.tower for name in names.values()}]
    return [
        replace(
            weights,
            tensors={name.unmarked: weights.tensors[text] for text, name in names.items() if name.tower in ("", tower)},
            bgr=tower != "hha",
        )
        for tower in marks
    ] or [weights]


def refuse_other_data(weights: Weights) -> None:
    """SEG-M022 for a network that is not known to see colours less VOC's means, which are also a classifier's.

    Its file tells neither what its bands are nor their means; whoever imports it says so by naming the network.
    """
    scored = [
        len(tensor)
        for text, tensor in weights.tensors.items()
        if (name := parsed(text)).layer == "score_fr" and name.leaf == "weight"
    ]
    if scored in ([], [VOC_CLASSES]) or weights.network is not None:
        return
    counts = " and ".join(map(str, scored))
    raise FullyconvError(
        "SEG-M022",
        f"{weights.file} scores {counts} classes, not VOC's {VOC_CLASSES}, so what its bands and their means are is "
        f"unclear; say it by fullyconv import {weights.file} --as NET --out MODEL, then start from it by "
        "--pretrained MODEL",
    )


def in_our_names(weights: Weights, model: FCN) -> dict[str, Tensor]:
    """The weights of a network of Caffe's or pytorch-fcn's as `model` takes them.

    Args:
        weights: As read, with `caffe` set; of one tower.
        model: Tells the names, the scales of the taps, and which upsampling kernels are kept.

    Returns:
        By our names; what has no place keeps its own. Bilinear kernels are left out where the model's are fixed. What a
        kernel carries from one class to another has no place: it stands under the layer's name and `BETWEEN`.

    Raises:
        FullyconvError: SEG-M021 for trained upsampling kernels where the model's are fixed.
    """
    own = model.state_dict()
    theirs = torchvision_names()
    factors = _factors(weights, model)
    ours: dict[str, Tensor] = {}
    for (layer, leaf), blocks in _joined(weights).items():
        if layer in UPSCORES:
            name = f"upscore_layers.{UPSCORES[layer]}.weight"
            ours |= _kernels(weights, layer, blocks, name, learned=name in own)
            continue
        if layer in SCALES:
            continue
        tensor = torch.cat(blocks)
        if layer in SCORES:
            name = f"score_layers.{SCORES[layer]}.{leaf}"
            tensor = tensor * factors[SCORES[layer]] if leaf == "weight" and SCORES[layer] in factors else tensor
        else:
            key, tensor = _of_classifier(theirs.get(layer, layer), leaf, tensor, bgr=weights.bgr)
            name = f"trunk.{key}"
        ours[name if name in own else f"{layer}.{leaf}"] = tensor
    return ours


def in_names_of_classifiers(weights: Weights) -> dict[str, Tensor]:
    """The weights of a classifier of Caffe's as a `ClassicNet` takes them, for red, green and blue."""
    theirs = torchvision_names()
    return dict(
        _of_classifier(theirs.get(layer, layer), leaf, torch.cat(blocks), bgr=weights.bgr)
        for (layer, leaf), blocks in _joined(weights).items()
    )


def _of_classifier(layer: str, leaf: str, tensor: Tensor, *, bgr: bool) -> tuple[str, Tensor]:
    """A classifier's weight under our name."""
    turned = bgr and layer in FIRST_LAYERS and leaf == "weight"
    return f"{_trunk_layer(layer)}.{leaf}", _turned(tensor) if turned else tensor


def tap_scales(weights: Weights) -> dict[str, Tensor] | None:
    """What the file says that pool4 and pool3 are multiplied by before they are scored, by place; None if it does not.

    FCN-8s and FCN-8s at once have the same layers in pytorch-fcn, which writes these numbers into its code.
    """
    found = {
        SCALES[name.layer]: tensor.flatten()
        for text, tensor in weights.tensors.items()
        if (name := parsed(text)).layer in SCALES and name.leaf == "weight"
    }
    if weights.network is None and weights.file.suffix != ".caffemodel":
        return found or None
    at_once = AT_ONCE if "atonce" in (weights.network or "") else {}
    return {place: found.get(place, torch.tensor([at_once.get(place, 1.0)])) for place in AT_ONCE}


def _factors(weights: Weights, model: FCN) -> dict[str, Tensor]:
    """What score layers are multiplied by whose taps the file scales otherwise than the model, `(1, C, 1, 1)`."""
    said = tap_scales(weights) or {}
    return {
        place: (said[place] / scale).view(1, -1, 1, 1)
        for place, scale in zip(model.score_layers, model.tap_scales, strict=True)
        if place in said and not torch.allclose(said[place], torch.tensor(scale), rtol=1e-5, atol=0)
    }


def _joined(weights: Weights) -> dict[tuple[str, str], list[Tensor]]:
    """The tensors of each layer and leaf; those of two heads one after the other, the semantic one first."""
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for text, tensor in weights.tensors.items():
        name = parsed(text)
        parts.setdefault((name.layer, name.leaf), {})[name.head] = tensor
    return {key: [heads[head] for head in HEADS if head in heads] for key, heads in parts.items()}


def _trunk_layer(layer: str) -> str:
    block, _, branch = layer.partition("/")
    return f"{block}.{BRANCHES[branch]}" if block.startswith("inception") else f"{block}_{branch}".rstrip("_")


def _turned(kernel: Tensor) -> Tensor:
    """A first layer's kernel `(N, C, h, w)` for red, green and blue in place of blue, green and red."""
    return kernel[:, [2, 1, 0, *range(3, kernel.shape[1])]]


def _kernels(weights: Weights, layer: str, blocks: list[Tensor], name: str, *, learned: bool) -> dict[str, Tensor]:
    """The upsampling kernel of each class, `(K, 1, k, k)`, under its name if the model trains such kernels.

    Args:
        weights: For messages.
        layer: For messages.
        blocks: Kernels of each head: `(n, 1, k, k)`, or `(n, n, k, k)` from every class to every class.
        name: Ours for the layer's weight.
        learned: Whether the model has a place for other than bilinear kernels.
    """
    apart = [_apart(block) for block in blocks]
    each = torch.cat([within for within, _ in apart])
    between = [crossing for _, crossing in apart if crossing.any()]
    change = float((each - bilinear_kernel(each.shape[-1])).abs().max())
    option = "all" if "image" in name else "learned"
    if between and not learned:
        count = sum(map(count_kernels, between))
        raise FullyconvError(
            "SEG-M021",
            f"{layer} of {weights.file} carries scores from one class to another by {count} of its kernels, which "
            f"cannot be kept; --upscore {option} keeps each class's own kernel and drops these",
        )
    if change > 1e-5 and not learned:
        raise FullyconvError(
            "SEG-M021",
            f"{layer} of {weights.file} was trained: it differs from bilinear by up to {change:.2g}; keep it by "
            f"--upscore {option}",
        )
    kept = {name: each} if learned else {}
    return kept | {f"{layer} {BETWEEN}": crossing for crossing in between}


def count_kernels(kernels: Tensor) -> int:
    """How many kernels of `(n, n, k, k)` are not zero."""
    return int(kernels.abs().amax((2, 3)).count_nonzero())


def _apart(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels within classes, `(n, 1, k, k)`, and, the rest of `(n, n, k, k)`, between them."""
    if kernels.shape[1] == 1:
        return kernels, kernels.new_zeros(1)
    diagonal = torch.arange(min(kernels.shape[:2]))
    between = kernels.clone()
    between[diagonal, diagonal] = 0
    return kernels[diagonal, diagonal][:, None], between
