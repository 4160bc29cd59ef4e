"""The web application: images in, label maps out."""

import base64
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response

from fullyconv import images
from fullyconv.errors import FullyconvError
from fullyconv.prediction import Segmentation, Segmenter
from fullyconv.prediction.tiles import Tiling

MOST_BYTES = 256_000_000  # of a request; larger images are for `fullyconv predict`, which reads them by windows
PAGE = Path(__file__).with_name("page.html")

Output = Literal["mask", "overlay", "json"]


def make_app(segmenter: Segmenter, name: str, tile: Tiling = "auto") -> FastAPI:
    """The application of one segmenter.

    Args:
        segmenter: Of one picture a scene. One image is computed at a time, on all cores.
        name: Of the model, for people.
        tile: As `Segmenter` takes it.
    """
    # The pages of documentation that FastAPI offers are made of scripts from elsewhere.
    app = FastAPI(title="fullyconv", docs_url=None, redoc_url=None)
    computing = Lock()

    def segmented(body: bytes) -> Segmentation:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "image.tif"  # of which the first bytes decide what it is
            file.write_bytes(body)
            try:
                pixels = images.read_image(file, channels=segmenter.channels)
            except FullyconvError as fault:
                raise FullyconvError(fault.code, fault.message.replace(str(file), "the image")) from None
        with computing:
            return segmenter(pixels, tile=tile)

    def answer(body: bytes, output: Output) -> Response:
        begun = time.perf_counter()
        found = segmented(body)
        if output == "mask":
            return Response(_mask(found), media_type="image/png")
        if output == "overlay":
            return Response(_overlay(found), media_type="image/png")
        seconds = round(time.perf_counter() - begun, 3)
        return JSONResponse({**_described(found), "seconds": seconds})

    @app.get("/", response_class=HTMLResponse)
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
        return await run_in_threadpool(answer, await _body(request), output)

    @app.exception_handler(FullyconvError)
    def refuse(_: Request, fault: FullyconvError) -> Response:
        return JSONResponse({"error": {"code": fault.code, "message": fault.message}}, status_code=400)

    return app


async def _body(request: Request) -> bytes:
    """What a request holds.

    Raises:
        FullyconvError: SEG-V003 if it is too much, or nothing.
    """
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise FullyconvError(
                "SEG-V003", f"an image may have {MOST_BYTES // 1_000_000} MB; `fullyconv predict` takes larger ones"
            )
    if not size:
        raise FullyconvError("SEG-V003", "the request holds no image; send its bytes, as by curl --data-binary @a.jpg")
    return b"".join(parts)


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
