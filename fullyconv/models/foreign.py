"""Segmentation networks of other toolkits: to evaluate, predict with and export what was trained elsewhere."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from fullyconv.errors import FullyconvError
from fullyconv.geometry import Grid
from fullyconv.means import IMAGENET_MEAN, IMAGENET_STD
from fullyconv.models.classifiers import in_bands_of
from fullyconv.models.fcn import FCN

TOOLKITS = ("torchvision", "smp", "hf")
KINDS = ("segformer", "upernet")  # of transformers, by the model_type in config.json
MULTIPLE = 32  # pixels: what their decoders can put together again
REACH = 512  # pixels around a tile: their decoders' fields are not traced


class ForeignNet(FCN):
    """A whole network of another toolkit.

    Args:
        network: Gives logits `(N, K, H / stride, W / stride)` for normalised images `(N, C, H, W)` of multiples of 32
            pixels, alone or as the first value of a dict.
        num_classes: Its channels K.
        mean: Of each band, in [0, 1].
        std: Of each band.
        stride: Side of the blocks of pixels whose logits it gives, 1 if it upsamples them itself; such logits are
            brought up to the image as its toolkit does it, by `F.interpolate(align_corners=False)`.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, *, mean: Sequence[float], std: Sequence[float], stride: int = 1
    ) -> None:
        nn.Module.__init__(self)
        self.stride = stride
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.network = network
        self.num_classes = num_classes
        self.grids = (Grid().convolve(REACH + 1).convolve(1, MULTIPLE),)
        self.global_operations = ("a decoder of another toolkit",)
        self.least_size = self.size_multiple = MULTIPLE
        self.score_layers, self.upscore_layers = nn.ModuleDict(), nn.ModuleDict()

    def extra_repr(self) -> str:
        return f"stride={self.stride}"

    @property
    def grid(self) -> Grid:
        """Where the scores lie on the image: in the middle of its blocks of pixels."""
        return Grid().convolve(self.stride, self.stride)

    def scores(self, image: Float[Tensor, "n c height width"]) -> Float[Tensor, "n k h w"]:
        """The logits of the image's blocks of pixels.

        Args:
            image: In [0, 1], any height and width from 1 up.
        """
        logits: Any = self.network(self._padded((image - self.mean) / self.std))
        whole: Tensor = next(iter(logits.values())) if isinstance(logits, dict) else logits
        rows, columns = ((side + self.stride - 1) // self.stride for side in image.shape[2:])
        return whole[:, :, :rows, :columns]


def is_foreign(name: str) -> bool:
    """Whether a network is another toolkit's as a whole, such as `smp:Unet:resnet18` or `hf:segformer`."""
    toolkit, _, rest = name.partition(":")
    return toolkit in TOOLKITS and bool(rest)


def refuse_what_is_ours(name: str, asked: Sequence[str]) -> None:
    """Do nothing if of a network of another toolkit no option is asked that it has not.

    Raises:
        FullyconvError: SEG-T012 if one is.
    """
    if asked:
        raise FullyconvError(
            "SEG-T012",
            f"{name} is built by its toolkit, with weights at random or of --pretrained FILE, and {asked[0]} is for "
            "networks that are built here; leave it out, or choose one, such as fcn8s-resnet18",
        )


def foreign(
    name: str,
    num_classes: int,
    *,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    config: Mapping[str, Any] | None = None,
) -> ForeignNet:
    """A segmentation network of another toolkit, with random weights.

    Args:
        name: `torchvision:` and a segmentation network of torchvision, `smp:DECODER:ENCODER` of
            segmentation-models-pytorch, or `hf:segformer` and `hf:upernet` of transformers.
        num_classes: Its classes.
        channels: Bands of the image.
        mean: Of each band, in [0, 1]; ImageNet's for RGB, 0.5 for other bands if left out.
        std: Of each band; ImageNet's for RGB, 0.25 for other bands if left out.
        config: Of a network of transformers: what differs from its default configuration.

    Raises:
        FullyconvError: SEG-M001 for an unknown network, SEG-M052 if its toolkit is not installed or refuses.
    """
    toolkit, _, rest = name.partition(":")
    stride = 1
    if toolkit == "torchvision":
        network = in_bands_of(_of_torchvision(rest, num_classes), channels)
    elif toolkit == "smp":
        network = _of_smp(rest, num_classes, channels)
    else:
        network, stride = _of_transformers(rest, num_classes, channels, config or {})
    rgb = channels == 3
    usual = (IMAGENET_MEAN, IMAGENET_STD) if rgb else ((0.5,) * channels, (0.25,) * channels)
    return ForeignNet(network, num_classes, mean=mean or usual[0], std=std or usual[1], stride=stride)


def _of_torchvision(name: str, num_classes: int) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models.segmentation)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0))
        raise FullyconvError("SEG-M001", f"torchvision has no segmentation network {name!r}; the nearest are {near}")
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes
    )
    return network


def _of_smp(name: str, num_classes: int, channels: int) -> nn.Module:
    decoder, _, encoder = name.partition(":")
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise FullyconvError(
            "SEG-M052", "smp: networks need their toolkit: pip install segmentation-models-pytorch"
        ) from None
    try:
        network: nn.Module = smp.create_model(
            decoder, encoder or "resnet34", encoder_weights=None, in_channels=channels, classes=num_classes
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise FullyconvError(
            "SEG-M052", f"segmentation-models-pytorch makes no {name} ({str(error).splitlines()[0]}); see its names"
        ) from error
    return network


def _of_transformers(kind: str, num_classes: int, channels: int, config: Mapping[str, Any]) -> tuple[nn.Module, int]:
    """A network of transformers, and the stride of its logits."""
    toolkit = _transformers(kind)
    settings = toolkit.AutoConfig.for_model(kind, **config, num_labels=num_classes, num_channels=channels)
    network = toolkit.AutoModelForSemanticSegmentation.from_config(settings, dtype=torch.float32)
    return network, settings.strides[0] if kind == "segformer" else 1


def _transformers(kind: str) -> Any:
    """The package, for a kind of network that is known.

    Raises:
        FullyconvError: SEG-M001 for another kind; SEG-M052 if it is not installed.
    """
    if kind not in KINDS:
        raise FullyconvError(
            "SEG-M001", f"there is no hf:{kind}; there are {', '.join(f'hf:{each}' for each in KINDS)}"
        )
    try:
        import transformers
    except ImportError:
        raise FullyconvError("SEG-M052", "hf: networks need transformers: pip install 'fullyconv[hf]'") from None
    return transformers


@dataclass(frozen=True)
class Checkpoint:
    """A segmentation network in a folder of transformers.

    Args:
        names: Of its classes.
        bands: Of its images.
        config: What differs from the default configuration of its kind, but for the classes.
        tensors: Its weights, by the names of the installed version, whatever the file calls them.
        statistics: Mean and std of each band, where the folder tells them.
    """

    names: tuple[str, ...]
    bands: int
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    statistics: Mapping[str, Sequence[float]]


def read_checkpoint(folder: Path, kind: str) -> Checkpoint:
    """The network in a local folder with config.json and model.safetensors; no hub is asked, and no pickle read.

    Raises:
        FullyconvError: SEG-M001 and SEG-M052 as for `foreign`; SEG-M023 if the folder holds another network.
    """
    toolkit = _transformers(kind)
    if not (folder / "config.json").is_file():
        raise FullyconvError(
            "SEG-M023", f"there is no {folder / 'config.json'}; give the folder that transformers saved a {kind} in"
        )
    told = _json(folder / "config.json")
    if told.get("model_type") != kind:
        raise FullyconvError(
            "SEG-M023",
            f"{folder} holds no config.json of a {kind}, but of {told.get('model_type', 'another program')}; give the "
            "folder that transformers saved it in, and --as hf: and its model_type",
        )
    if not (folder / "model.safetensors").is_file():
        raise FullyconvError(
            "SEG-M023",
            f"there is no {folder / 'model.safetensors'}; pickled weights are never read: save the network again by "
            "network.save_pretrained(FOLDER, safe_serialization=True)",
        )
    toolkit.utils.logging.disable_progress_bar()
    try:
        network, found = toolkit.AutoModelForSemanticSegmentation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise FullyconvError(
            "SEG-M023", f"{folder} is no {kind} that transformers can read ({reason}); save it again"
        ) from error
    if found["missing_keys"]:
        raise FullyconvError(
            "SEG-M023", f"{folder} holds no segmentation network: it lacks {sorted(found['missing_keys'])[0]}"
        )
    labels = network.config.id2label
    bands = getattr(network.config, "backbone_config", network.config).num_channels
    theirs = ("id2label", "label2id", "architectures", "transformers_version", "dtype", "model_type", "num_channels")
    told = _json(folder / "preprocessor_config.json")
    images = {key: told.get(f"image_{key}", ()) for key in ("mean", "std")}
    return Checkpoint(
        names=tuple(labels[index] for index in range(len(labels))),
        bands=bands,
        config={key: value for key, value in network.config.to_diff_dict().items() if key not in theirs},
        tensors=network.state_dict(),
        statistics={key: values for key, values in images.items() if len(values) == bands},
    )


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
