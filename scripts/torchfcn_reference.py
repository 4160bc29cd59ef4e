"""Writes tests/data: logits of pytorch-fcn's own networks, and Caffe snapshots written by chainer's own protobuf.

torchfcn 1.9.7 imports only beside old packages, so this runs in an environment of its own, once:

    uv venv --python 3.11 /tmp/torchfcn
    echo 'setuptools==69.5.1' > /tmp/overrides
    uv pip install --python /tmp/torchfcn --override /tmp/overrides 'setuptools==69.5.1' wheel 'numpy<2' torch \\
        torchvision safetensors pytz scikit-image 'protobuf==3.20.3'
    uv pip install --python /tmp/torchfcn --override /tmp/overrides --no-build-isolation 'numpy<2' torchfcn==1.9.7
    /tmp/torchfcn/bin/python scripts/torchfcn_reference.py tests/data

Weights and images are not saved: both sides compute them by `values`.
"""

import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NETS = {
    "FCN32s": "fcn32s-vgg16",
    "FCN16s": "fcn16s-vgg16",
    "FCN8s": "fcn8s-vgg16",
    "FCN8sAtOnce": "fcn8s-atonce-vgg16",
}
SIZES = [(33, 47), (61, 35)]
STEP = 53  # of the logits, every so many-th is kept
PERIOD = 1_000_003
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)  # VOCClassSegBase.mean_bgr


def values(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers that look random in [-0.5, 0.5), the same on every machine: a hashed table, entered at a place of its own
    for each name."""
    mixed = np.arange(1, PERIOD + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) >> np.uint64(40)
    table = np.roll((mixed / 2**24 - 0.5).astype(np.float32), -(zlib.crc32(name.encode()) % PERIOD))
    return torch.from_numpy(np.resize(table, math.prod(shape))).view(shape)


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight that keeps the variance of what passes through it and a ReLU; of a bias, a tenth of that of a pixel."""
    return values(name, shape) * (math.sqrt(24 / math.prod(shape[1:])) if len(shape) > 1 else 10)


def pixels(size: tuple[int, int]) -> Tensor:
    """An image `(3, H, W)` of whole numbers from 0 to 255, red first."""
    return ((values(f"image {size}", (3, *size)) + 0.5) * 256).floor()


def amplified(state: dict[str, Tensor], net: str) -> dict[str, Tensor]:
    """The weights with the finer score layers of the net trained at once so strong that its scales do not hide them."""
    gains = {"score_pool4.weight": 100, "score_pool3.weight": 10_000} if net == "FCN8sAtOnce" else {}
    return {name: tensor * gains.get(name, 1) for name, tensor in state.items()}


@torch.no_grad()
def logits(net: str) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """A part of the logits at each size, and the shapes of the state_dict, of one of torchfcn's networks."""
    import torchfcn

    model = getattr(torchfcn.models, net)().eval()
    state = model.state_dict()
    own = {name: weight(name, tensor.shape) for name, tensor in state.items() if not name.startswith("upscore")}
    model.load_state_dict({**state, **amplified(own, net)})
    found = {}
    for size in SIZES:
        image = pixels(size).flip(0) - torch.tensor(MEAN_BGR).view(3, 1, 1)
        answer = model(image[None])
        print(net, size, "std", float(answer.std()))
        found[f"{net} {size[0]}x{size[1]}"] = answer.flatten()[::STEP].clone()
    return found, {name: list(tensor.shape) for name, tensor in state.items()}


def snapshot(*, old: bool) -> bytes:
    """A Caffe snapshot of two small layers, as chainer's copy of `caffe.proto` writes it."""
    from chainer.links.caffe.protobuf3 import caffe_pb2

    net = caffe_pb2.NetParameter(name="small")
    for name, shape in [("conv1_1", (2, 3, 3, 3)), ("fc8", (4, 5))]:
        layer = (net.layers if old else net.layer).add(name=name)
        for leaf, sides in [("weight", shape), ("bias", shape[:1])]:
            blob = layer.blobs.add()
            if old:
                blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - len(sides)) + sides
            else:
                blob.shape.dim.extend(sides)
            blob.data.extend(values(f"{name}.{leaf}", sides).flatten().tolist())
    return bytes(net.SerializeToString())


def main(folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "old.caffemodel").write_bytes(snapshot(old=True))
    (folder / "new.caffemodel").write_bytes(snapshot(old=False))
    tensors, shapes = {}, {}
    for net in NETS:
        found, shapes[net] = logits(net)
        tensors |= found
    save_file(tensors, folder / "torchfcn_logits.safetensors", metadata={"shapes": json.dumps(shapes)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
