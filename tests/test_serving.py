"""A served model answers over HTTP what it answers in Python."""

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.models import create
from fullyconv.prediction import Segmenter

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

from fullyconv.serving import app, serve  # noqa: E402

LABELS = LabelSet(("sky", "road", "car"))


def segmenter(channels: int = 3, bands: tuple[int, ...] = ()) -> Segmenter:
    torch.manual_seed(0)
    model = create("fcn8s-test_resnet", 3, channels=channels)
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    return Segmenter(model.eval(), LABELS, {"name": "fcn8s-test_resnet", "num_classes": 3}, bands=bands)


@contextmanager
def served(model: Segmenter, patience: int | None = None) -> Iterator[str]:
    """The address of a server that runs in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings = uvicorn.Config(app.make_app(model, "runs/a"), log_level="critical", timeout_graceful_shutdown=patience)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return segmenter()


@pytest.fixture(scope="module")
def address(model: Segmenter) -> Iterator[str]:
    with served(model) as address:
        yield address


def asked(url: str, body: bytes | None = None) -> bytes:
    with urlopen(Request(url, body), timeout=60) as answer:
        content: bytes = answer.read()
    return content


def refused(url: str, body: bytes) -> dict[str, str]:
    with pytest.raises(HTTPError) as fault:
        asked(url, body)
    assert fault.value.code == 400
    error: dict[str, str] = json.loads(fault.value.read())["error"]
    return error


def picture(size: tuple[int, int] = (40, 52), **options: object) -> tuple[bytes, np.ndarray]:
    """A file's bytes, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue(), pixels


def decoded(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_an_image_becomes_its_label_map(address: str, model: Segmenter) -> None:
    body, pixels = picture()
    mask = decoded(asked(f"{address}/predict", body))
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), model(pixels).mask)


def test_the_overlay_is_that_of_python(address: str, model: Segmenter) -> None:
    body, pixels = picture()
    overlay = decoded(asked(f"{address}/predict?output=overlay", body))
    assert np.array_equal(np.asarray(overlay), np.asarray(model(pixels).overlay(legend=False)))


def test_json_holds_shares_and_both_pictures(address: str, model: Segmenter) -> None:
    body, pixels = picture()
    found = json.loads(asked(f"{address}/predict?output=json", body))
    expected = model(pixels)
    assert {each["name"]: each["share"] for each in found["classes"]} == pytest.approx(expected.share())
    assert (found["height"], found["width"]) == (40, 52)
    mask = np.asarray(decoded(base64.b64decode(found["mask"])))
    assert np.array_equal(mask, expected.mask)
    for each in found["classes"]:
        assert tuple(each["color"]) == LABELS.colors[LABELS.names.index(each["name"])]


def test_pictures_lie_as_their_camera_lay(address: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    mask = decoded(asked(f"{address}/predict", picture(exif=exif)[0]))
    assert mask.size == (40, 52)


def test_the_model_tells_its_classes(address: str) -> None:
    told = json.loads(asked(f"{address}/model"))
    assert [each["name"] for each in told["classes"]] == list(LABELS.names)
    assert told["model"] == "runs/a"
    assert told["network"] == "fcn8s-test_resnet"


def test_the_page_takes_nothing_from_elsewhere(address: str) -> None:
    page = asked(f"{address}/").decode()
    assert page.startswith("<!doctype html>")
    assert "//" not in page.replace("  // another image was dropped meanwhile", "")


def test_what_is_no_image_is_refused_without_its_place_on_the_server(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(f"{address}/predict", b"no picture")
    assert error["code"] == "SEG-D009"
    assert error["message"].startswith("the image is not a picture")
    assert refused(f"{address}/predict", b"")["code"] == "SEG-V003"
    monkeypatch.setattr(app, "MOST_PIXELS", 40 * 51)
    assert "this one has 52x40 pixels" in refused(f"{address}/predict", picture()[0])["message"]
    monkeypatch.setattr(app, "MOST_BYTES", 100)
    assert refused(f"{address}/predict", picture()[0])["code"] == "SEG-V003"


def test_another_output_is_refused(address: str) -> None:
    error = refused(f"{address}/predict?output=video", picture()[0])
    assert error == {"code": "SEG-V003", "message": "there is no such output; ?output= takes mask, overlay, json"}


@pytest.mark.parametrize(("path", "body", "status"), [("nowhere", None, 404), ("predict", None, 405)])
def test_who_asks_elsewhere_is_told_what_there_is(address: str, path: str, body: bytes | None, status: int) -> None:
    with pytest.raises(HTTPError) as fault:
        asked(f"{address}/{path}", body)
    assert fault.value.code == status
    assert "POST /predict" in json.loads(fault.value.read())["error"]["message"]


def test_a_form_is_told_how_to_send_an_image(address: str) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + picture()[0] + b"\r\n--x--\r\n"
    assert "curl --data-binary" in refused(f"{address}/predict", form)["message"]


def test_who_is_left_unanswered_by_a_stop_is_told(model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, end = threading.Event(), threading.Event()

    def slow(body: bytes, channels: int) -> torch.Tensor:
        begun.set()
        end.wait(60)
        return torch.zeros(channels, 40, 52)

    monkeypatch.setattr(app, "_decoded", slow)
    with ThreadPoolExecutor(1) as visitor:
        with served(model, patience=1) as address:
            answer = visitor.submit(asked, f"{address}/predict", picture()[0])
            assert begun.wait(60)
        end.set()
        with pytest.raises(HTTPError) as fault:
            answer.result()
    assert fault.value.code == 503
    assert json.loads(fault.value.read())["error"]["code"] == "SEG-V004"


def test_a_model_that_fails_is_no_fault_of_the_request(address: str, model: Segmenter) -> None:
    bias = next(iter(model.model.score_layers.values())).bias
    assert isinstance(bias, torch.Tensor)
    kept = bias.detach().clone()
    try:
        bias.data[0] = float("nan")
        with pytest.raises(HTTPError) as fault:
            asked(f"{address}/predict", picture()[0])
    finally:
        bias.data.copy_(kept)
    assert fault.value.code == 500
    assert json.loads(fault.value.read())["error"]["code"] == "SEG-P005"


def test_many_at_once_get_each_their_own(address: str, model: Segmenter) -> None:
    sizes = [(20 + 3 * number, 40) for number in range(6)]
    found: dict[int, tuple[int, int]] = {}

    def ask(number: int) -> None:
        found[number] = decoded(asked(f"{address}/predict", picture(sizes[number])[0])).size

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(sizes))] == [(width, height) for height, width in sizes]


def test_no_more_bodies_are_held_than_have_a_turn(model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    received, decoded_now, held, most = app._body, app._decoded, 0, 0

    async def counted(request: object) -> bytes:
        nonlocal held, most
        held += 1
        most = max(most, held)
        return await received(request)  # type: ignore[arg-type]

    def freed(body: bytes, channels: int) -> torch.Tensor:
        nonlocal held
        image = decoded_now(body, channels)
        held -= 1
        return image

    monkeypatch.setattr(app, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(app, "_body", counted)
    monkeypatch.setattr(app, "_decoded", freed)
    with served(model) as address, ThreadPoolExecutor(6) as clients:
        masks = list(clients.map(lambda _: asked(f"{address}/predict", picture()[0]), range(6)))
    assert len(set(masks)) == 1
    assert most == 2


def test_who_sends_nothing_loses_the_turn(model: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(app, "MOST_SILENCE", 0.2)
    with served(model) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as idle:
            idle.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\nhalf of it")
            assert decoded(asked(f"{address}/predict", picture()[0])).size == (52, 40)
            told = idle.recv(1000)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert b"SEG-V003" in told


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FullyconvError, match=rf"SEG-V001 .*127\.0\.0\.1:{port} .*--port 0"):
            serve(segmenter(), port=port)


def test_a_tile_off_the_stride_is_refused_before_anybody_asks() -> None:
    with pytest.raises(FullyconvError, match=r"SEG-P004 .*use 96"):
        serve(segmenter(), port=0, tile=100)


def test_a_network_of_several_pictures_is_not_served() -> None:
    with pytest.raises(FullyconvError, match=r"SEG-V002 .*reads 2 pictures"):
        serve(segmenter(channels=4, bands=(3, 1)), port=0)


def test_serving_ends_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(self: object, sockets: list[socket.socket]) -> None:
        assert sockets[0].getsockname()[1] > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", interrupted)
    serve(segmenter(), port=0)
    assert "the model at http://127.0.0.1:" in capsys.readouterr().out


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(FullyconvError, match=r"SEG-U009 .*uvicorn.*'fullyconv\[serve\]'"):
        serve(tmp_path)
