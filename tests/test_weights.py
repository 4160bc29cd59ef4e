"""Weight files of every kind are read, and nothing in them is run."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from caffe_files import write_caffemodel
from thin import make_thin, trunk_of

from fullyconv.errors import FullyconvError
from fullyconv.models import create, start_from, weights
from fullyconv.models.weights import read_caffemodel, read_weights

LAYERS = {
    "conv1_1": [np.linspace(-1, 1, 54, dtype=np.float32).reshape(2, 3, 3, 3), np.float32([0.5, -0.5])],
    "fc6": [np.arange(600, dtype=np.float32).reshape(3, 200), np.zeros(3, np.float32)],
    "scale_pool4": [np.full(5, 0.01, np.float32)],
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("double", [False, True])
def test_both_messages_give_the_same_blobs(tmp_path, version, double):
    file = write_caffemodel(tmp_path / "net.caffemodel", LAYERS, version=version, double=double)
    found = read_caffemodel(file)
    assert list(found) == list(LAYERS)
    for name, blobs in LAYERS.items():
        assert [blob.shape for blob in found[name]] == [blob.shape for blob in blobs]
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found[name], blobs, strict=True))


def test_old_blobs_have_four_sides_and_the_same_values(tmp_path):
    found = read_caffemodel(write_caffemodel(tmp_path / "net.caffemodel", LAYERS, version=1, legacy=True))
    assert [blob.shape for blob in found["fc6"]] == [(1, 1, 3, 200), (1, 1, 1, 3)]
    assert np.array_equal(found["fc6"][0].ravel(), LAYERS["fc6"][0].ravel())
    tensors = read_weights(tmp_path / "net.caffemodel").tensors
    assert tensors["fc6.bias"].shape == (3,)
    assert torch.equal(tensors["conv1_1.weight"], torch.from_numpy(LAYERS["conv1_1"][0]))


def test_other_bytes_are_no_snapshot(tmp_path):
    file = write_caffemodel(tmp_path / "net.caffemodel", LAYERS)
    whole = file.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"not a snapshot", b"\x89PNG\r\n\x1a\n"):
        file.write_bytes(content)
        with pytest.raises(FullyconvError, match=r"SEG-M004.*net\.caffemodel.*fetch it again"):
            read_caffemodel(file)


def test_a_snapshot_without_weights_is_refused(tmp_path):
    with pytest.raises(FullyconvError, match=r"SEG-M004.*no layer in it has weights"):
        read_caffemodel(write_caffemodel(tmp_path / "net.caffemodel", {"data": []}))


@pytest.mark.parametrize("lost", [1, 4])
def test_a_blob_of_too_few_values_is_refused(tmp_path, monkeypatch, lost):
    whole = np.ones((2, 3), np.float32)
    monkeypatch.setattr("caffe_files._blob", lambda values, *_: b"\x3a\x04\x0a\x02\x02\x03" + shortened(values, lost))
    file = write_caffemodel(tmp_path / "net.caffemodel", {"fc8": [whole]})
    with pytest.raises(FullyconvError, match=r"SEG-M004.*layer fc8 is 2 x 3 in size but has 5 values"):
        read_caffemodel(file)


def shortened(values: np.ndarray, lost: int) -> bytes:
    """The `data` field of a blob whose last bytes are missing."""
    content = values.tobytes()[:-lost]
    return bytes([5 << 3 | 2, len(content)]) + content


def test_protobuf_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    with pytest.raises(FullyconvError, match=r"SEG-U009.*pip install 'fullyconv\[caffe\]'"):
        read_caffemodel(tmp_path / "net.caffemodel")


def checkpoint(arch: str) -> dict[str, object]:
    """What pytorch-fcn's trainer saves."""
    network = torch.nn.Sequential()
    network.add_module("conv1_1", torch.nn.Conv2d(3, 2, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-10, momentum=0.99)
    return {
        "epoch": 3,
        "iteration": 4000,
        "arch": arch,
        "optim_state_dict": optimizer.state_dict(),
        "model_state_dict": network.state_dict(),
        "best_mean_iu": np.nanmean([0.25, 0.75]),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_tells_its_network(tmp_path, zipped):
    saved = checkpoint("FCN8sAtOnce")
    torch.save(saved, tmp_path / "model_best.pth.tar", _use_new_zipfile_serialization=zipped)
    found = read_weights(tmp_path / "model_best.pth.tar")
    assert (found.network, found.caffe, found.verified) == ("fcn8s-atonce-vgg16", True, False)
    assert list(found.tensors) == ["conv1_1.weight", "conv1_1.bias"]
    assert torch.equal(found.tensors["conv1_1.weight"], saved["model_state_dict"]["conv1_1.weight"])


def test_numbers_of_an_older_numpy_are_read(tmp_path):
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(checkpoint("FCN32s"), file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    assert b"numpy._core.multiarray" in content
    file.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_weights(file).network == "fcn32s-vgg16"


class Trap:
    """An object that runs something when it is unpickled."""

    def __reduce__(self):
        return (open, ("sprung", "w"))


def test_objects_are_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**checkpoint("FCN8s"), "best_mean_iu": Trap()}, tmp_path / "net.pth")
    with pytest.raises(FullyconvError, match=r"SEG-M004.*net\.pth.*save the network's state_dict again"):
        read_weights(tmp_path / "net.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["net.pth", "net.caffemodel", "net.safetensors", "fcn8s_from_caffe.pth"])
def test_a_file_that_is_not_there_is_looked_for(tmp_path, name):
    with pytest.raises(FullyconvError, match=rf"SEG-M004.*{name}.*there is no such file; check the path"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"hello", b"(lp0", b"2.5", b"<html>404</html>", b"\x80\x02", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_other_bytes_are_no_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FullyconvError, match=rf"SEG-M004.*{name}.*fetch it again"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_weights_are_told_as_such(tmp_path, zipped):
    file = tmp_path / "net.pth"
    torch.save(checkpoint("FCN8s"), file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    for share in np.linspace(0, 0.95, 50):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FullyconvError, match=r"SEG-M004.*is damaged.*fetch it again"):
            read_weights(file)


def test_a_tensor_alone_is_no_network(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "net.pth")
    with pytest.raises(FullyconvError, match=r"SEG-M004.*it holds a Tensor"):
        read_weights(tmp_path / "net.pth")


def test_networks_of_several_gpus_lose_their_wrapping(tmp_path):
    torch.save({"module.conv1_1.weight": torch.zeros(2)}, tmp_path / "net.pth")
    assert list(read_weights(tmp_path / "net.pth").tensors) == ["conv1_1.weight"]


@pytest.mark.parametrize("name", weights.PUBLISHED)
def test_a_published_name_stands_for_published_bytes(tmp_path, monkeypatch, name):
    file = tmp_path / name
    torch.save({"features.0.weight": torch.zeros(2)}, file)
    with pytest.raises(FullyconvError, match=rf"SEG-M020.*{name}.*fetch it again"):
        read_weights(file)
    network, _ = weights.PUBLISHED[name]
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(weights.PUBLISHED, name, (network, (digest,)))
    found = read_weights(file)
    assert (found.network, found.caffe, found.verified) == (network, True, True)


def test_a_trunk_of_ours_is_not_caffes(tmp_path, monkeypatch):
    make_thin(monkeypatch, "vgg16")
    trunk = trunk_of("vgg16", [32])
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    assert not read_weights(tmp_path / "trunk.pth").caffe
    model = create("fcn32s-vgg16", 3)
    start_from(model, tmp_path / "trunk.pth")
    assert torch.equal(model.trunk.conv1_1.weight, trunk.conv1_1.weight)


def test_a_bare_network_of_pytorch_fcn_is_known_by_its_form(tmp_path):
    state = {"conv1_1.weight": torch.zeros(2, 3, 3, 3), "fc6.weight": torch.zeros(4, 2, 7, 7)}
    torch.save(state, tmp_path / "trunk.pth")
    torch.save({**state, "score_fr.weight": torch.zeros(21, 4, 1, 1)}, tmp_path / "net.pth")
    assert [read_weights(tmp_path / name).caffe for name in ("trunk.pth", "net.pth")] == [False, True]


def test_weights_of_torchvision_are_not_caffes(tmp_path):
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "vgg16-397923af.pth")
    found = read_weights(tmp_path / "vgg16-397923af.pth")
    assert (found.network, found.caffe, found.verified) == (None, False, False)
