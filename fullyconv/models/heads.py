"""One head of a network as a network of its own."""

import copy
from itertools import chain

from torch import nn

from fullyconv.models.fcn import FCN


def head_of(model: FCN, first: int, num_classes: int) -> FCN:
    """The network whose scores are a block of another's score channels; all weights are shared with it.

    Score channels never mix on their way to the image, so a block of them with the trunk below is a whole network.

    Args:
        model: What it is cut from; as it learns, so does the head.
        first: The block's first channel.
        num_classes: The block's channels.
    """
    if num_classes == model.num_classes:
        return model
    head = copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})
    block = slice(first, first + num_classes)
    for part in head.modules():
        if isinstance(part, FCN):
            part.num_classes = num_classes
            for layer in chain(part.score_layers.values(), part.upscore_layers.values()):
                _cut(layer, block)
    return head


def _cut(layer: nn.Module, block: slice) -> None:
    """Leaves a layer a block of its channels, as views of its tensors."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(parameter.detach()[block], parameter.requires_grad))
    for name, buffer in list(layer.named_buffers(recurse=False)):
        setattr(layer, name, buffer[block])
