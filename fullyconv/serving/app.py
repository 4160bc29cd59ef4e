"""The web application: images in, label maps out."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jaxtyping import Shaped
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from torch import Tensor

from fullyconv import images
from fullyconv.errors import FullyconvError
from fullyconv.prediction import Segmentation, Segmenter
from fullyconv.prediction.tiles import Tiling

# Of a request; larger images are for `fullyconv predict`, which reads them by windows.
MOST_BYTES = 256_000_000
MOST_PIXELS = 64_000_000

MOST_AT_ONCE = 8
"""Requests whose bytes are held, 2 GB at most; those of later ones wait in the network until it is their turn."""

MOST_SILENCE = 30
"""Seconds without a byte after which a request loses its turn."""

PAGE = Path(__file__).with_name("page.html")

Output = Literal["mask", "overlay", "json"]


def make_app(segmenter: Segmenter, name: str, tile: Tiling = "auto") -> FastAPI:
    """The application of one segmenter.

    Args:
        segmenter: Of one picture a scene. One image is computed at a time, on all cores, while a few others come in.
        name: Of the model, for people.
        tile: As `Segmenter` takes it.
    """
    computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fullyconv-serving")

    @asynccontextmanager
    async def ending(_: FastAPI) -> AsyncIterator[None]:
        yield
        computing.shutdown(wait=False, cancel_futures=True)

    # The pages of documentation that FastAPI offers are made of scripts from elsewhere.
    app = FastAPI(title="fullyconv", docs_url=None, redoc_url=None, lifespan=ending)
    turns = asyncio.Semaphore(MOST_AT_ONCE)

    def answer(body: bytes, output: Output) -> Response:
        begun = time.perf_counter()
        found = segmenter(_decoded(body, segmenter.channels), tile=tile)
        if output == "mask":
            return Response(_mask(found), media_type="image/png")
        if output == "overlay":
            return Response(_overlay(found), media_type="image/png")
        return JSONResponse({**_described(found), "seconds": round(time.perf_counter() - begun, 3)})

    @app.api_route("/", methods=["GET", "HEAD"], response_class=HTMLResponse)
    def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/model")
    def model() -> dict[str, Any]:
        labels = segmenter.labels
        classes = [{"name": each, "color": color} for each, color in zip(labels.names, labels.colors, strict=True)]
        network = segmenter.architecture.get("name")
        return {"model": name, "network": network, "classes": classes, "runtime": segmenter.engine.to_json()}

    @app.post("/predict")
    async def predict(request: Request, output: Output = "mask") -> Response:
        try:
            async with turns:
                body = await _body(request)
                return await asyncio.get_running_loop().run_in_executor(computing, answer, body, output)
        except asyncio.CancelledError:  # as the server does when it is stopped
            return _refusal("SEG-V004", "the server was stopped before it had answered; ask again when it runs", 503)

    app.add_exception_handler(FullyconvError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_option)
    app.add_exception_handler(HTTPException, _redirect)
    app.add_exception_handler(ClientDisconnect, _leave)
    return app


def _refuse(_: Request, fault: Exception) -> Response:
    """What is wrong with the request, or else with the model."""
    assert isinstance(fault, FullyconvError)
    theirs = fault.code.startswith(("SEG-D", "SEG-V"))
    return _refusal(fault.code, fault.message, 400 if theirs else 500)


def _refusal(code: str, message: str, status: int) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)


def _redirect(_: Request, fault: Exception) -> Response:
    """What there is, for a path or a method that there is not."""
    assert isinstance(fault, HTTPException)
    told = f"{fault.detail}; there are GET /, GET /model, and POST /predict with the bytes of an image"
    return _refusal("SEG-V003", told, fault.status_code)


def _refuse_option(request: Request, _: Exception) -> Response:
    outputs = ", ".join(get_args(Output))
    return _refuse(request, FullyconvError("SEG-V003", f"there is no such output; ?output= takes {outputs}"))


def _leave(_: Request, __: Exception) -> Response:
    """Nobody is there any more to be answered."""
    return Response(status_code=400)


def _decoded(body: bytes, channels: int) -> Shaped[Tensor, "c height width"]:
    """The image in a request, as `images.read_image` gives it.

    Raises:
        FullyconvError: What that raises, SEG-V003 for more pixels than are served.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image.tif"  # of which the first bytes decide what it is
        file.write_bytes(body)
        try:
            height, width = images.image_size(file)
            if height * width > MOST_PIXELS:
                raise FullyconvError(
                    "SEG-V003",
                    f"an image may have {MOST_PIXELS // 1_000_000} megapixels, this one has {width}x{height} pixels; "
                    "`fullyconv predict` takes larger ones",
                )
            return images.read_image(file, channels=channels)
        except FullyconvError as fault:
            told = fault.message.replace(str(file), "the image")
            form = "; send the file's bytes alone, as curl --data-binary does" if body.startswith(b"--") else ""
            raise FullyconvError(fault.code, told + form) from None


async def _body(request: Request) -> bytes:
    """What a request holds.

    Raises:
        FullyconvError: SEG-V003 if it is too much, or nothing, or stays away.
    """
    large = FullyconvError(
        "SEG-V003", f"an image may have {MOST_BYTES // 1_000_000} MB; `fullyconv predict` takes larger ones"
    )
    if int(request.headers.get("content-length", 0)) > MOST_BYTES:
        raise large
    parts, size, coming = [], 0, request.stream()
    while part := await _next(coming):  # the last part is empty
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise large
    if not size:
        raise FullyconvError("SEG-V003", "the request holds no image; send its bytes, as by curl --data-binary @a.jpg")
    return b"".join(parts)


async def _next(parts: AsyncIterator[bytes]) -> bytes:
    """The next part of a request; SEG-V003 if it stays away."""
    try:
        return await asyncio.wait_for(anext(parts), MOST_SILENCE)
    except TimeoutError:
        raise FullyconvError(
            "SEG-V003", f"no byte of the image came for {MOST_SILENCE} seconds; send it again"
        ) from None


def _described(found: Segmentation) -> dict[str, Any]:
    """The shape, the classes that occur, the largest first, and both pictures as PNGs in base64."""
    colors = dict(zip(found.labels.names, found.labels.colors, strict=True))
    classes = [{"name": name, "color": colors[name], "share": share} for name, share in found.share().items()]
    pictures = {"mask": _mask(found), "overlay": _overlay(found)}
    return {
        "height": found.mask.shape[0],
        "width": found.mask.shape[1],
        "classes": classes,
        **{name: base64.b64encode(picture).decode() for name, picture in pictures.items()},
    }


def _mask(found: Segmentation) -> bytes:
    return _written(lambda file: images.write_mask(file, found.mask, found.labels))


def _overlay(found: Segmentation) -> bytes:
    return _written(lambda file: images.write_picture(file, found.overlay(legend=False)))


def _written(write: Callable[[Path], None]) -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        write(file)
        return file.read_bytes()
