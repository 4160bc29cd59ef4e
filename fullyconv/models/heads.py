"""Score channels of a network: a head of them as a network of its own, and more of them."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from fullyconv.geometry import upscore_kernel
from fullyconv.models.fcn import FCN, Upscore
from fullyconv.models.foreign import ForeignNet


def head_of(model: FCN, first: int, num_classes: int) -> FCN:
    """The network whose scores are a block of another's score channels; all weights are shared with it.

    Score channels never mix on their way to the image, so a block of them with the trunk below is a whole network.

    Args:
        model: What it is cut from; as it learns, so does the head.
        first: The block's first channel.
        num_classes: The block's channels.

    Raises:
        ValueError: If it is another toolkit's.
    """
    if num_classes == model.num_classes:
        return model
    head = copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})
    block = slice(first, first + num_classes)
    for part in _scoring(head):
        part.num_classes = num_classes
        for layer in chain(part.score_layers.values(), part.upscore_layers.values()):
            _cut(layer, block)
    return head


def _scoring(model: FCN) -> list[FCN]:
    """The networks that have score layers: itself, and the towers of a late fusion.

    Raises:
        ValueError: If it is another toolkit's, whose score channels are made by layers that are not known.
    """
    parts = [part for part in model.modules() if isinstance(part, FCN)]
    if any(isinstance(part, ForeignNet) for part in parts):
        raise ValueError("a network of another toolkit keeps its score channels; name another, such as fcn8s-resnet18")
    return parts


def _cut(layer: nn.Module, block: slice) -> None:
    """Leaves a layer a block of its channels, as views of its tensors."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(parameter.detach()[block], parameter.requires_grad))
    for name, buffer in list(layer.named_buffers(recurse=False)):
        setattr(layer, name, buffer[block])


def with_more_classes(model: FCN, num_classes: int) -> FCN:
    """A copy of a network that scores more classes: the first ones as before, new ones zero until they are trained.

    Args:
        model: The network of fewer classes.
        num_classes: How many the copy has.

    Raises:
        ValueError: If they are not more, or it is another toolkit's.

    Source: `expand_score` of the authors' release.
    """
    if num_classes <= model.num_classes:
        raise ValueError(
            f"expected more than the {model.num_classes} classes of the network, got {num_classes}; head_of gives fewer"
        )
    wider = copy.deepcopy(model)
    for part in _scoring(wider):
        more, part.num_classes = num_classes - part.num_classes, num_classes
        for layer in chain(part.score_layers.values(), part.upscore_layers.values()):
            _grow(layer, more)
    return wider


def _grow(layer: nn.Module, more: int) -> None:
    """Gives a layer more channels, changing it: upsampling that starts bilinear, scores that start at zero."""

    def grown(tensor: Tensor) -> Tensor:
        start = tensor.new_zeros(more, *tensor.shape[1:])
        if isinstance(layer, Upscore):
            taps = tensor.new_tensor(upscore_kernel(layer.factor, layer.offset)[0])
            start += torch.outer(taps, taps)
        return torch.cat((tensor, start))

    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(grown(parameter.detach()), parameter.requires_grad))
    for name, buffer in list(layer.named_buffers(recurse=False)):
        setattr(layer, name, grown(buffer))
