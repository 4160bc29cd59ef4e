"""From files to batches: decoded once where memory allows, augmented in workers, seekable to any step."""

import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fullyconv import images, losses
from fullyconv.datasets import Pair
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.sampling import Stream, generator_of, share
from fullyconv.transforms import Augmentation

CACHE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Sample:
    """One training image, float in [0, 1] `(C, H, W)`, and its masks, one per head `(heads, H, W)`."""

    image: Tensor
    masks: Tensor


class Decoder:
    """Images and masks by index: decoded once into memory, which forked workers share, if they fit, else at each call.

    Args:
        pairs: What to decode.
        labels: How masks are read.
        bands: Of each picture of a scene.
        also: The same images in the same order with masks under other labels, each for a further head.
        limit: Bytes that may be kept; 0 keeps none.

    Raises:
        FullyconvError: SEG-T004 for a pair without a mask, SEG-T005 for a mask of another size.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        labels: LabelSet,
        bands: Sequence[int],
        *,
        also: Sequence[tuple[Sequence[Pair], LabelSet]] = (),
        limit: int = CACHE_BYTES,
    ) -> None:
        self.pairs = pairs
        self.bands = bands
        self.heads = ((pairs, labels), *also)
        self.ignore_index = max(labels.ignore_index for _, labels in self.heads)
        self.kept: list[tuple[Tensor, Tensor]] = []
        if limit and self._bytes() <= limit:
            with ThreadPoolExecutor() as pool:
                self.kept = list(pool.map(self._decode, range(len(pairs))))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.kept[index] if self.kept else self._decode(index)

    def try_share(self, process: int, processes: int) -> None:
        """Decodes one process's share of the pairs and keeps nothing, so that what is wrong with them is said now.

        Raises:
            FullyconvError: For the first pair that cannot be read.
        """

        def attempt(index: int) -> None:
            self._decode(index)

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(attempt, range(process, len(self.pairs), processes)):
                pass

    def _bytes(self) -> int:
        """What all pairs take when decoded, judged by the first one's bands and types."""
        per_pixel = sum(tensor[..., 0, 0].numel() * tensor.element_size() for tensor in self._decode(0))
        sizes = [images.image_size(pair.image) for pair in self.pairs]
        return per_pixel * sum(height * width for height, width in sizes)

    def _decode(self, index: int) -> tuple[Tensor, Tensor]:
        image = images.stack(self.pairs[index].pictures, self.bands)
        masks = [self._mask(pairs[index], labels, image) for pairs, labels in self.heads]
        return image, torch.stack(masks)

    def _mask(self, pair: Pair, labels: LabelSet, image: Tensor) -> Tensor:
        """The mask of a pair, with one ignore value for all heads."""
        if pair.mask is None:
            raise FullyconvError("SEG-T004", f"{pair.image} has no mask, so it cannot be trained on")
        mask = images.read_mask(pair.mask, labels)
        if image.shape[1:] != mask.shape:
            raise FullyconvError(
                "SEG-T005",
                f"{pair.mask} is {mask.shape[1]} x {mask.shape[0]}, but its image is {image.shape[2]} x "
                f"{image.shape[1]} pixels; make them alike or leave the pair out",
            )
        if labels.ignore_index == self.ignore_index:
            return mask
        return mask.int().masked_fill(mask == labels.ignore_index, self.ignore_index)


class Samples(Dataset[Sample | FullyconvError]):
    """The endless stream of training samples by position; a fault comes as a value, so that it keeps its code.

    Args:
        decoder: Gives image and masks by index.
        stream: Says which index and which randomness a position has.
        augmentation: None leaves samples as they are.
        keep: Probability that a pixel of a mask is not ignored.
    """

    def __init__(
        self, decoder: Decoder, stream: Stream, augmentation: Augmentation | None, *, keep: float = 1.0
    ) -> None:
        self.decoder = decoder
        self.stream = stream
        self.augmentation = augmentation
        self.keep = keep

    def __getitem__(self, position: int) -> Sample | FullyconvError:
        draw = self.stream[position]
        try:
            image, masks = self.decoder[draw.index]
        except FullyconvError as error:
            return error
        ignore_index = self.decoder.ignore_index
        if self.augmentation is None:
            image = images.to_float(image)
        else:
            generator = torch.Generator().manual_seed(draw.seed)
            image, masks = self.augmentation(image, masks, generator, ignore_index)
        if self.keep < 1:
            masks = losses.sampled(masks, self.keep, generator_of(draw.seed, "loss"), ignore_index=ignore_index)
        return Sample(image, masks)


class _Positions(Sampler[list[int]]):
    """The positions of one process, part after part of each step, from `step` on, without end."""

    def __init__(self, step: int, batch: int, parts: int, process: int, processes: int) -> None:
        self.step = step
        self.batch = batch
        self.parts = parts
        self.process = process
        self.processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        step = self.step
        while True:
            mine = list(share(step, self.batch, self.process, self.processes))
            size = len(mine) // self.parts
            for part in range(self.parts):
                yield mine[part * size : (part + 1) * size]
            step += 1


def collate(samples: Sequence[Sample | FullyconvError], ignore_index: int) -> tuple[Tensor, Tensor] | FullyconvError:
    """A batch: images `(N, C, H, W)` and int64 masks `(N, heads, H, W)`; smaller images are padded with their mean,
    which the masks ignore."""
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, FullyconvError):
            return sample
        whole.append(sample)
    height = max(sample.image.shape[1] for sample in whole)
    width = max(sample.image.shape[2] for sample in whole)
    padding = [(0, width - sample.image.shape[2], 0, height - sample.image.shape[1]) for sample in whole]
    # Rows first: threads share out the sum of a whole image, and its last bits would depend on them.
    means = [float(sample.image.mean(-1).mean()) for sample in whole]
    batch = [F.pad(each.image, pad, value=mean) for each, pad, mean in zip(whole, padding, means, strict=True)]
    masks = [F.pad(sample.masks.long(), pad, value=ignore_index) for sample, pad in zip(whole, padding, strict=True)]
    return torch.stack(batch).contiguous(memory_format=torch.channels_last), torch.stack(masks)


class Feed:
    """The batches of one process, from any step on; the run's first share comes in small samples.

    Args:
        open_at: The endless batches from a step on, small or not.
        parts: Batches per step.
        growth: The share of the run that is trained on small samples.
    """

    def __init__(
        self, open_at: Callable[[int, bool], Generator[tuple[Tensor, Tensor], None, None]], parts: int, growth: float
    ) -> None:
        self.open_at = open_at
        self.parts = parts
        self.growth = growth
        self.small = False
        self.source: Generator[tuple[Tensor, Tensor], None, None] | None = None

    def step(self, number: int, progress: float) -> list[tuple[Tensor, Tensor]]:
        """The batches of a step; steps follow one another.

        Args:
            number: The step, counted from 0.
            progress: Share of the run that is over, in [0, 1].
        """
        small = progress < self.growth
        if self.source is None or small != self.small:
            self.close()
            self.source, self.small = self.open_at(number, small), small
        return [next(self.source) for _ in range(self.parts)]

    def close(self) -> None:
        """Ends the workers."""
        if self.source is not None:
            self.source.close()


class _Collate:
    """`collate` with its ignore value, as something that workers can be sent."""

    def __init__(self, ignore_index: int) -> None:
        self.ignore_index = ignore_index

    def __call__(self, samples: Sequence[Sample | FullyconvError]) -> tuple[Tensor, Tensor] | FullyconvError:
        return collate(samples, self.ignore_index)


def _ignore_signals(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the main process decides
        signal.signal(number, signal.SIG_IGN)


def batches(
    samples: Samples, *, step: int, batch: int, parts: int, process: int, processes: int, workers: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Endless batches of one process from a step on: `parts` of them make its share of a step.

    Args:
        samples: By position.
        step: First step, counted from 0.
        batch: Images per step of all processes together, a multiple of `parts * processes`.
        parts: Batches that a process accumulates per step.
        process: This process, from 0.
        processes: How many there are.
        workers: Processes that decode and augment; 0 does it here.

    Raises:
        FullyconvError: If a sample cannot be read.
    """
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=_Positions(step, batch, parts, process, processes),
        collate_fn=_Collate(samples.decoder.ignore_index),
        num_workers=workers,
        prefetch_factor=3 if workers else None,
        worker_init_fn=_ignore_signals,
        # Forked workers share the decoded images; other ways of starting would copy them one by one.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    try:
        for item in loader:
            if isinstance(item, FullyconvError):
                raise item
            yield item
    except Exception as fault:
        # The frames of the loader would keep its workers, which do not hear a SIGTERM, and Python would wait for them.
        traceback.clear_frames(fault.__traceback__)
        raise
