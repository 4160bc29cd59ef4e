"""The command that serves a model until it is stopped."""

import contextlib
import socket
from pathlib import Path
from typing import Annotated

import torch

from fullyconv.errors import FullyconvError
from fullyconv.prediction import Segmenter, opened
from fullyconv.prediction.tiles import Tiling, refuse_tile
from fullyconv.runtimes.computing import Runtime
from fullyconv.runtimes.formats import Precision

PATIENCE = 5  # seconds that visitors have left when the server is stopped


def serve(
    model: str | Path | Segmenter,
    *,
    host: Annotated[str, "NAME"] = "127.0.0.1",
    port: int = 8000,
    head: Annotated[str, "NAME"] | None = None,
    tile: Tiling = "auto",
    runtime: Runtime = "auto",
    precision: Precision = "fp32",
    calibrate: str | Path | None = None,
) -> None:
    """Serve a model as a web page to drop images on, and as an HTTP API; Ctrl-C ends it.

    `POST /predict` takes the bytes of an image and gives its label map as an index PNG; with `?output=overlay` the
    image with the classes laid over it, with `?output=json` both, and the share of each class. `GET /model` names the
    classes.

    Args:
        model: Model folder or run folder.
        host: Where to listen; 0.0.0.0 lets other machines in, and asks nobody who they are.
        port: Where to listen; 0 takes one that is free.
        head: Of a network with several heads, which one; the first if left out.
        tile: Side of the tiles in pixels, a multiple of the coarsest stride; none never tiles, auto above 4 megapixels.
        runtime: What computes, as for predict.
        precision: What convolutions compute in; int8 is measured on --calibrate first.
        calibrate: Data or a folder of images for int8, as for predict.

    Raises:
        FullyconvError: SEG-U009 if a package is missing, SEG-V001 if nobody can listen there, SEG-V002 for a network
            that reads several pictures of each scene.

    Example:
        fullyconv serve runs/a --port 8000
    """
    try:
        import uvicorn

        from fullyconv.serving.app import make_app
    except ImportError as error:
        raise FullyconvError(
            "SEG-U009", f"serving needs {error.name}; install it: pip install 'fullyconv[serve]'"
        ) from None
    segmenter = opened(model, head=head, runtime=runtime, precision=precision, calibrate=calibrate)
    name = "the model" if isinstance(model, Segmenter) else Path(model).resolve().name  # no visitor needs the path
    if len(segmenter.bands) > 1:
        raise FullyconvError(
            "SEG-V002",
            f"{name} reads {len(segmenter.bands)} pictures of each scene, and a request holds one; use predict --more",
        )
    refuse_tile(segmenter.model, tile)
    with _listening(host, port) as listener:
        if runtime != "fastest":  # which is found out on an image such as those to come
            segmenter(torch.zeros(segmenter.channels, 64, 64))  # starts the runtime, so that no visitor waits for it
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        print(f"{name} at {address} (Ctrl-C ends it)", flush=True)
        app = make_app(segmenter, name, tile)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=PATIENCE))
        with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
            server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        FullyconvError: SEG-V001 if that is not possible.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise FullyconvError(
            "SEG-V001",
            f"cannot listen at {host}:{port} ({reason}); choose another --port, or --port 0 for one that is free",
        ) from None
