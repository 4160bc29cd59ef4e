"""A classifier made to slide, so that it takes images of any size.

Source: Long, Shelhamer and Darrell 2015, section 3.1.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, fx, nn

from fullyconv.surgery.graphs import (
    NotConvertible,
    Size,
    Value,
    cut,
    survey,
    traced,
)
from fullyconv.surgery.head import Head, leave_out_idle_pools, score_layer_of
from fullyconv.surgery.layers import twin
from fullyconv.surgery.taps import taps_of


class DenseClassifier(nn.Module):
    """A classifier that slides: a map of class scores for an image `(N, C, H, W)`.

    At the classifier's own size the map has one cell, which holds its logits.

    Args:
        network: The rewritten graph, with the classifier's layers under their names.
        size: The classifier's own height and width.
        channels: Bands of its images.
        score: The name of the last layer with weights, a convolution now.
        pools: Names of the pools of the head.
        covering: Names of convolutions whose kernel covers the whole map at the classifier's own size.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        size: Size,
        channels: int,
        *,
        score: str,
        pools: Sequence[str],
        covering: Sequence[str],
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.channels = channels
        self.score = score
        self.pools = tuple(pools)
        self.covering = tuple(covering)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.network(image)
        return scores

    def logits(self, image: Tensor) -> Tensor:
        """The classifier's own logits `(N, K)` for images of its own size."""
        return self(image).flatten(1)  # type: ignore[no-any-return]

    @property
    def score_layer(self) -> nn.Conv2d:
        """The convolution that gives the class scores."""
        layer = self.network.get_submodule(self.score)
        assert isinstance(layer, nn.Conv2d)
        return layer

    def trunk(self, strides: Sequence[int], layers: Mapping[int, str] | None = None) -> fx.GraphModule:
        """The network below its score layer as feature maps, finest first; its weights are shared with this one.

        The pools of the head are left out, as in the paper's GoogLeNet, and kernels that cover the classifier's whole
        map keep the size of theirs: each cell speaks for itself, up to the border.

        A tap is what enters the module that halves the resolution: the last output of a stage. The coarsest map also
        stands for a wanted stride that is less than twice its own, as stride 7 does for 8.

        Args:
            strides: Wanted strides in pixels; those beyond the coarsest map's are left out.
            layers: Which layer's output is the tap of a stride, where another one is wanted.

        Raises:
            NotConvertible: If there is no map of a wanted stride.
        """
        network = twin(self.network)
        for name in self.covering:
            conv = network.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            conv.padding = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
        for node in network.graph.nodes:
            if node.op == "call_module" and node.target in self.pools:
                node.replace_all_uses_with(node.all_input_nodes[0])
        taps = taps_of(network, self.size, self.channels, self.score, layers or {})
        coarsest = max(taps)
        meant = {min(stride, coarsest) for stride in strides if stride < 2 * coarsest}
        missing = sorted(meant - taps.keys())
        if missing or not meant:
            possible = min((stride for stride in (4, 8, 16) if stride >= coarsest), default=32)
            raise NotConvertible(
                f"it has maps at strides {', '.join(map(str, sorted(taps)))}, "
                f"not at {', '.join(map(str, missing or strides))}; fcn{possible}s is possible, --stride {possible}"
            )
        wanted = [taps[stride] for stride in sorted(meant)]
        return cut(network, wanted)


def convolutionalize(classifier: nn.Module, size: int | Size = (224, 224), *, channels: int = 3) -> DenseClassifier:
    """The classifier as a network that slides over images of any size; weights are shared, but for linear layers.

    Its graph is traced, and the head is rewritten: a pool over the whole map becomes a pool with the kernel that it has
    at the classifier's own size and a stride of 1, a flattened map and the linear layer behind it a convolution whose
    kernel covers that map, and norms, activations and dropout work cell by cell. Everything below stays as it is.

    Args:
        classifier: Gives logits `(N, K)` for images of its own size.
        size: That height and width, or the side of square ones.
        channels: Bands of the image.

    Raises:
        NotConvertible: If its graph cannot be traced, if it has no linear head, or if the head mixes positions in
            another way; with the name of the layer.
    """
    size = (size, size) if isinstance(size, int) else size
    network = traced(classifier)
    values, covering = survey(network, size, channels)
    leave_out_idle_pools(network, values)
    output = _logits(network.graph, values)
    if len(values[output].shape) != 2:
        raise NotConvertible(f"it gives {tuple(values[output].shape)} for one image, not (1, classes): no classifier")
    head = Head(network, values)
    head.rewrite(output)
    head.join_scores()
    covering = [name for name in (*covering, *head.covering) if name]
    score = score_layer_of(network, values[output].shape[1])
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    dense = DenseClassifier(network, size, channels, score=score, pools=head.pools, covering=covering)
    dense.train(classifier.training)
    return dense


def _logits(graph: fx.Graph, values: Mapping[fx.Node, Value]) -> fx.Node:
    """The node that gives the logits, which the network may hand out alone, in a tuple, or in a dict."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    tensors: list[fx.Node] = [node for node in output.all_input_nodes if node in values]
    if len(tensors) != 1:
        raise NotConvertible(f"it gives {len(tensors)} tensors, not logits alone")
    output.args = (tensors[0],)
    return tensors[0]
