"""Weight files, read without running anything that they hold: safetensors, PyTorch's, and Caffe's.

Source: `caffe.proto` of BVLC Caffe; the published files and checkpoints of pytorch-fcn 1.9.7.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fullyconv.errors import FullyconvError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Weights:
    """What a weight file holds.

    Args:
        file: Where it was read from.
        tensors: By the file's own names; the blobs of a Caffe layer are `LAYER.weight` and `LAYER.bias`.
        network: The network that the file itself says it is of, if it does; weights of a classifier are of none.
        caffe: Whether it is of Caffe's making: by its names, for images from 0 to 255 less a mean.
        bgr: Whether Caffe's network sees blue, green and red in this order; HHA it sees in the order of the files.
        verified: Whether the file is, to the byte, one that was published.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    network: str | None = None
    caffe: bool = False
    bgr: bool = True
    verified: bool = False


# The files that pytorch-fcn made of the authors' and published, with the MD5 of each; of the first FCN-32s, exchanged
# later, only its beginning is known.
PUBLISHED = {
    "fcn32s_from_caffe.pth": ("fcn32s-vgg16", ("d3eb467a80e7da0468a20dfcbc13e6c8", "8acf386d")),
    "fcn16s_from_caffe.pth": ("fcn16s-vgg16", ("a2d4035f669f09483b39c9a14a0d6670",)),
    "fcn8s_from_caffe.pth": ("fcn8s-vgg16", ("de93e540ec79512f8770033849c8ae89",)),
    "fcn8s-atonce_from_caffe.pth": ("fcn8s-atonce-vgg16", ("bfed4437e941fef58932891217fe6464",)),
    "vgg16_from_caffe.pth": (None, ("aa75b158f4181e7f6230029eb96c1b13",)),
}

# What pytorch-fcn's checkpoints call their network.
ARCHITECTURES = {
    "FCN32s": "fcn32s-vgg16",
    "FCN16s": "fcn16s-vgg16",
    "FCN8s": "fcn8s-vgg16",
    "FCN8sAtOnce": "fcn8s-atonce-vgg16",
}


def read_weights(file: Path) -> Weights:
    """The tensors of a `.safetensors`, a `.caffemodel`, or any file of `torch.save` that holds tensors and numbers.

    Raises:
        FullyconvError: SEG-M004 if it cannot be read; SEG-M020 if it has the name of a published file and not its
            contents; SEG-U009 for a `.caffemodel` where protobuf is not installed.
    """
    if not file.is_file():
        raise _unreadable(file, "there is no such file; check the path")
    if file.suffix == ".caffemodel":
        return Weights(file, _named(read_caffemodel(file)), caffe=True)
    published, sums = PUBLISHED.get(file.name, (None, ()))
    if sums:
        _verify(file, sums)
    saved = _load(file)
    inner = [saved[key] for key in ("state_dict", "model_state_dict", "model") if isinstance(saved.get(key), dict)]
    state = inner[0] if inner else saved
    tensors = {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    network = published or ARCHITECTURES.get(str(saved.get("arch")))
    return Weights(
        file,
        tensors,
        network,
        caffe=bool(sums) or network is not None or _of_pytorch_fcn(tensors),
        verified=bool(sums),
    )


def _of_pytorch_fcn(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file without a word on its origin is pytorch-fcn's, which keeps Caffe's names: by its whole form.

    A trunk of ours has layers of these names, too.
    """
    fc6 = tensors.get("fc6.weight")
    return {"conv1_1.weight", "score_fr.weight"} <= set(tensors) and fc6 is not None and fc6.ndim == 4


def _load(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        try:
            return dict(load_file(file))
        except SafetensorError as error:
            raise _unreadable(file, "it is no file of safetensors, or is damaged; fetch it again") from error
    with file.open("rb") as handle, torch.serialization.safe_globals(_numbers()):
        try:
            saved = torch.load(handle, map_location="cpu", weights_only=True)
        # Over bytes that are not its own, the unpickler stumbles in ten ways at least: KeyError, struct.error, ...
        except Exception as error:
            raise _unreadable(
                file,
                "it is no file of torch.save, is damaged, or holds objects that would have to be run; fetch it again, "
                "or save the network's state_dict again",
            ) from error
    if not isinstance(saved, dict):
        raise _unreadable(file, f"it holds a {type(saved).__name__}; save the network's state_dict")
    return saved


def _numbers() -> list[Any]:
    """What rebuilds a NumPy number, such as the best score in pytorch-fcn's checkpoints, and can do nothing else."""
    rebuild = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    # NumPy 1 kept the function in another module, and its files say so.
    return [rebuild, (rebuild, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


def _unreadable(file: Path, reason: str) -> FullyconvError:
    return FullyconvError("SEG-M004", f"{file} holds no readable weights: {reason}")


def _verify(file: Path, sums: tuple[str, ...]) -> None:
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "md5").hexdigest()
    if not found.startswith(sums):
        raise FullyconvError(
            "SEG-M020",
            f"{file} is not the published file of this name: its MD5 is {found}, not {sums[0]}; fetch it again, or "
            "rename it if it is your own",
        )


# Caffe ---------------------------------------------------------------------------------------------------------------

# The fields of `caffe.proto` that weights need, with their numbers there. Floats are packed, which looks like bytes on
# the wire; read as such they become arrays without passing through Python one by one.
_MESSAGES = {
    "BlobShape": {"dim": (1, "repeated int64")},
    "BlobProto": {
        "num": (1, "int64"),
        "channels": (2, "int64"),
        "height": (3, "int64"),
        "width": (4, "int64"),
        "data": (5, "repeated bytes"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "repeated bytes"),
    },
    "V1LayerParameter": {"name": (4, "string"), "blobs": (6, "repeated BlobProto")},
    "LayerParameter": {"name": (1, "string"), "blobs": (7, "repeated BlobProto")},
    "NetParameter": {"layers": (2, "repeated V1LayerParameter"), "layer": (100, "repeated LayerParameter")},
}


def read_caffemodel(file: Path) -> dict[str, list[Array]]:
    """The blobs of each layer that has any, by its name; Caffe itself is not needed.

    Args:
        file: A snapshot in binary form, of old (`layers`) or new (`layer`) messages, blobs with a shape or with num,
            channels, height and width.

    Raises:
        FullyconvError: SEG-M004 if it cannot be read, SEG-U009 if protobuf is not installed.
    """
    try:
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise FullyconvError(
            "SEG-U009", f"{file} is read with protobuf, which is not installed; pip install 'fullyconv[caffe]'"
        ) from error
    net = _net_message()()
    try:
        net.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise _unreadable(file, "it is no snapshot of Caffe, or ends too early; fetch it again") from error
    found = {
        layer.name: [_array(file, layer.name, blob) for blob in layer.blobs]
        for layer in (*net.layers, *net.layer)
        if layer.blobs
    }
    if not found:
        raise _unreadable(file, "no layer in it has weights; give the snapshot, not the network's definition")
    return found


@cache
def _net_message() -> Any:
    """The class of Caffe's NetParameter, built from `_MESSAGES`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="fullyconv/caffe.proto", package="fullyconv", syntax="proto2")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, spelled) in fields.items():
            kind = spelled.removeprefix("repeated ")
            field = described.field.add(
                name=name,
                number=number,
                label=kinds.LABEL_REPEATED if spelled != kind else kinds.LABEL_OPTIONAL,
                type=kinds.TYPE_MESSAGE if kind in _MESSAGES else getattr(kinds, f"TYPE_{kind.upper()}"),
            )
            if kind in _MESSAGES:
                field.type_name = f".fullyconv.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("fullyconv.NetParameter"))


def _array(file: Path, layer: str, blob: Any) -> Array:
    data, kind = (blob.double_data, "<f8") if blob.double_data else (blob.data, "<f4")
    buffer = b"".join(data)
    values = np.frombuffer(buffer, kind, count=len(buffer) // np.dtype(kind).itemsize)
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    if values.size != math.prod(shape):
        sides = " x ".join(map(str, shape))
        raise _unreadable(
            file, f"a blob of layer {layer} is {sides} in size but has {values.size} values; fetch it again"
        )
    return values.reshape(shape)


def _named(layers: Mapping[str, list[Array]]) -> dict[str, Tensor]:
    """The blobs as tensors: `conv1_1.weight`, `conv1_1.bias`."""
    named = {}
    for layer, blobs in layers.items():
        for leaf, blob in zip(("weight", "bias"), blobs, strict=False):
            tensor = torch.from_numpy(blob.astype(np.float32))
            named[f"{layer}.{leaf}"] = tensor.flatten() if leaf == "bias" else tensor  # once 1 x 1 x 1 x n
    return named
