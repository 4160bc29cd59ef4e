"""Vision transformers as feature maps: their patch tokens, which stand for the patches of the image.

Every token has seen the whole image, so that such a network gives a shifted image other scores, and tiles differ from
the whole; it has one stride, that of its patches.
"""

from collections.abc import Mapping, Sequence

from timm.layers.format import Format
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fullyconv.geometry import Grid
from fullyconv.surgery import NotConvertible, linear_to_conv, place_on


class TokenMap(nn.Module):
    """The patch tokens of a transformer as a map `(N, C, h, w)`, in a list, for images `(N, C, H, W)` of any size.

    The image is padded at the right and bottom to whole patches, and the position embedding is interpolated.

    Args:
        network: Is changed so that it takes any size.
    """

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__()
        embedding = network.patch_embed
        self.patch = int(embedding.patch_size[0])
        network.dynamic_img_size = True  # type: ignore[misc]
        embedding.strict_img_size, embedding.flatten, embedding.output_fmt = False, False, Format.NHWC
        embedding.dynamic_img_pad = True
        self.network = network

    def tokens(self, image: Tensor) -> Tensor:
        """All tokens `(N, prefix + h * w, C)`, as the network's head reads them but for its pool."""
        tokens: Tensor = self.network.fc_norm(self.network.forward_features(image))
        return tokens

    def forward(self, image: Tensor) -> list[Tensor]:
        # Of whole numbers above zero: runtimes of exported graphs round negative quotients otherwise.
        height, width = ((side + self.patch - 1) // self.patch for side in image.shape[2:])
        patches = self.tokens(image)[:, self.network.num_prefix_tokens :]
        tap = patches.transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-untyped-call]
        place_on(Grid().convolve(self.patch, self.patch), tap, image)
        return [tap]


class DenseTransformer(nn.Module):
    """A vision transformer that scores each of its patches: a map of class scores for an image of any size.

    Args:
        classifier: One of timm's that pools its tokens by average or by a class token, and ends in a linear head; is
            changed: it gives its head away, and takes any size.
        size: Height and width of the images that it classifies.
        channels: Bands of its images.

    Raises:
        NotConvertible: For another pool or head.
    """

    def __init__(self, classifier: VisionTransformer, size: tuple[int, int], channels: int = 3) -> None:
        super().__init__()
        if not isinstance(classifier.head, nn.Linear) or classifier.global_pool not in ("token", "avg"):
            raise NotConvertible(
                f"the head cannot slide: it pools tokens by {classifier.global_pool!r} into "
                f"{type(classifier.head).__name__}; a class token or an average and a linear layer can"
            )
        self.size, self.channels = size, channels
        self.averages = classifier.global_pool == "avg"
        self.score_layer = linear_to_conv(classifier.head)
        self.map = TokenMap(classifier)
        classifier.head = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.score_layer(self.map(image)[0])
        return scores

    def logits(self, image: Tensor) -> Tensor:
        """The classifier's own logits `(N, K)`: its class token, or its patches' average, scored as patches are."""
        if not self.averages:
            return self._scored(self.map.tokens(image)[:, 0])
        network = self.map.network
        patches = network.forward_features(image)[:, network.num_prefix_tokens :]
        return self._scored(network.fc_norm(patches.mean(1)))

    def _scored(self, tokens: Tensor) -> Tensor:
        return self.score_layer(tokens[:, :, None, None]).flatten(1)  # type: ignore[no-any-return]

    def trunk(self, strides: Sequence[int], layers: Mapping[int, str] | None = None) -> TokenMap:
        """The token map, which is the only one.

        Args:
            strides: Wanted strides in pixels; none may be finer than the patches.
            layers: Not asked for.

        Raises:
            NotConvertible: For a finer stride.
        """
        if min(strides) < self.map.patch:
            possible = 16 if self.map.patch <= 16 else 32
            raise NotConvertible(
                f"it keeps one stride, {self.map.patch}, throughout, as transformers do; "
                f"fcn{possible}s is possible, --stride {possible}"
            )
        return self.map
