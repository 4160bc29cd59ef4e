"""Networks as users run them, and what they cost."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fullyconv.kernels import upsample_argmax
from fullyconv.models import FCN, create
from fullyconv.runtimes.engine import Engine
from fullyconv.runtimes.formats import SUFFIXES, Format, opened, write
from fullyconv.runtimes.pipeline import Pipeline, traced


def centred(name: str, num_classes: int, image: Tensor, **options: str) -> FCN:
    """A network of random weights whose scores have mean 0 and deviation 1 in each class, so that all classes occur.

    Args:
        name: As `models.create` takes it.
        num_classes: Score channels.
        image: On which the scores are centred.
        options: Of `models.create`.
    """
    torch.manual_seed(0)
    model = create(name, num_classes, **options).eval().requires_grad_(False)  # type: ignore[arg-type]
    for layer in model.score_layers.values():
        assert isinstance(layer, nn.Conv2d)
        nn.init.normal_(layer.weight)

    def centre(layer: nn.Module, _: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        deviation, mean = torch.std_mean(scores, (0, 2, 3))
        layer.weight /= deviation.view(-1, 1, 1, 1)
        layer.bias.copy_(-mean / deviation)
        return (scores - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)

    hooks = [layer.register_forward_hook(centre) for layer in model.score_layers.values()]
    with torch.no_grad():
        model.scores(image)
    for hook in hooks:
        hook.remove()
    return model.to(memory_format=torch.channels_last)


def operations(network: nn.Module, image: Tensor) -> float:
    """Operations of the convolutions and products of one pass; a multiply-add is two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.scores(image) if isinstance(network, FCN) else network(image)
    return float(counter.get_total_flops())


@torch.inference_mode()
def label_map(engine: Engine, image: Tensor) -> Tensor:
    """From images in [0, 1] to labels, as `predict` does it."""
    scores = engine.scores(image.contiguous(memory_format=torch.channels_last))
    return upsample_argmax(scores, (image.shape[2], image.shape[3]), grid=engine.model.grid)


@torch.inference_mode()
def eager_label_map(network: nn.Module, image: Tensor) -> Tensor:
    """From images to labels, as everybody does it."""
    logits: Tensor = network(image)
    return logits.argmax(1)


def exported_label_map(model: FCN, image: Tensor, format: Format) -> Callable[[], Tensor]:
    """From an image in [0, 1] to labels by a file that `fullyconv export` writes, in its own runtime."""
    pixels = image.permute(0, 2, 3, 1).contiguous().numpy()
    program = traced(Pipeline(model, output="labels"), "float")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / f"model{SUFFIXES[format]}"
        write(program, file, format, {})
        run = opened(file, format, "fp32")
    return lambda: torch.from_numpy(run(pixels))
