"""Networks of other programs, in their default form, with random weights."""

from typing import Any

from torch import Tensor, nn

from fullyconv.models import FCN
from fullyconv.surgery import bilinear_kernel

BLOCKS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}  # how many convolutions stand before each pool of VGG16


class PytorchFCN8s(nn.Module):
    """pytorch-fcn's FCN-8s as it is described: an image padded by 100 pixels, transposed convolutions over all pairs
    of classes, and crops by fixed offsets.

    Args:
        model: Our FCN-8s over VGG16 in Caffe's geometry, whose weights are copied.
    """

    def __init__(self, model: FCN) -> None:
        super().__init__()
        trunk = dict(model.trunk.named_children())
        blocks = [
            [
                *(_plain(trunk[f"conv{block}_{number}"]) for number in range(1, depth + 1)),
                nn.MaxPool2d(2, 2, ceil_mode=True),
            ]
            for block, depth in BLOCKS.items()
        ]
        self.to_pool3 = nn.Sequential(*(layer for block in blocks[:3] for layer in block))
        self.to_pool4 = nn.Sequential(*blocks[3])
        self.to_fc7 = nn.Sequential(*blocks[4], _plain(trunk["fc6"]), _plain(trunk["fc7"]))
        self.score_pool3, self.score_pool4, self.score_fr = map(_convolution, model.score_layers.values())
        self.upscore2 = _deconvolution(model.num_classes, 4, 2)
        self.upscore_pool4 = _deconvolution(model.num_classes, 4, 2)
        self.upscore8 = _deconvolution(model.num_classes, 16, 8)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(N, K, H, W)` of normalised images."""
        pool3 = self.to_pool3(image)
        pool4 = self.to_pool4(pool3)
        coarse = self.upscore2(self.score_fr(self.to_fc7(pool4)))
        middle = self.upscore_pool4(coarse + _cropped(self.score_pool4(pool4), 5, coarse))
        fine = self.upscore8(middle + _cropped(self.score_pool3(pool3), 9, middle))
        return _cropped(fine, 31, image)


def _plain(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(_convolution(layer), nn.ReLU(inplace=True))


def _convolution(layer: nn.Module) -> nn.Conv2d:
    """A convolution with the weights of another, in torch's default form."""
    assert isinstance(layer, nn.Conv2d)
    size, padding = layer.kernel_size[0], int(layer.padding[0])
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, size, padding=padding)
    plain.load_state_dict(layer.state_dict())
    return plain


def _deconvolution(num_classes: int, kernel_size: int, stride: int) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(num_classes, num_classes, kernel_size, stride, bias=False)
    nn.init.zeros_(layer.weight)
    for each in range(num_classes):
        layer.weight.data[each, each] = bilinear_kernel(kernel_size).float()
    return layer


def _cropped(wide: Tensor, offset: int, like: Tensor) -> Tensor:
    height, width = like.shape[2:]
    return wide[:, :, offset : offset + height, offset : offset + width].contiguous()


def smp(decoder: str, encoder: str, num_classes: int) -> nn.Module:
    """A network of segmentation-models-pytorch."""
    import segmentation_models_pytorch

    network: nn.Module = segmentation_models_pytorch.create_model(
        decoder, encoder_name=encoder, encoder_weights=None, classes=num_classes
    )
    return network


class Torchvision(nn.Module):
    """A segmentation network of torchvision, which gives its logits alone.

    Args:
        name: Of the function that makes it.
        num_classes: Score channels.
    """

    def __init__(self, name: str, num_classes: int) -> None:
        from torchvision.models import get_model

        super().__init__()
        self.network: Any = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(N, K, H, W)`."""
        logits: Tensor = self.network(image)["out"]
        return logits


class SegFormer(nn.Module):
    """The smallest SegFormer of Hugging Face, its logits brought to the size of the image as its processor does.

    Args:
        num_classes: Score channels.
    """

    def __init__(self, num_classes: int) -> None:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        super().__init__()
        config = SegformerConfig(id2label=dict(enumerate(map(str, range(num_classes)))))
        self.network: Any = SegformerForSemanticSegmentation(config)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(N, K, H, W)`."""
        logits = self.network(pixel_values=image).logits
        return nn.functional.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
