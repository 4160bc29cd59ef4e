"""Which image comes when, and with which randomness: pure functions of seed, epoch and position.

Nothing is remembered between samples, so any number of workers or processes sees the same order, and training goes on
from any step without replaying what came before.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator_of(*parts: int | str) -> torch.Generator:
    """A random generator whose stream depends on nothing but the parts."""
    return torch.Generator().manual_seed(seed_of(*parts))


def order(seed: int, epoch: int, size: int) -> Tensor:
    """The permutation of `size` samples in an epoch."""
    return torch.randperm(size, generator=generator_of(seed, "order", epoch))


@dataclass(frozen=True)
class Draw:
    """One sample of an endless stream: which image, and where its randomness starts."""

    epoch: int
    index: int
    seed: int


class Stream:
    """The endless sequence of draws from `size` images, one permutation after another; any position in constant time.

    Args:
        seed: Of the whole run.
        size: Number of images.
    """

    def __init__(self, seed: int, size: int) -> None:
        self.seed = seed
        self.size = size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, position: int) -> Draw:
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order(self.seed, epoch, self.size)
        return Draw(epoch, int(self._order[place]), seed_of(self.seed, "augment", epoch, place))


def share(step: int, batch_size: int, process: int, processes: int) -> range:
    """The stream positions that one of several processes draws at a step; together they are the whole batch.

    Args:
        step: Counted from 0.
        batch_size: Images of all processes together; a multiple of `processes`.
        process: This one, from 0.
        processes: How many there are.
    """
    part = batch_size // processes
    first = step * batch_size + process * part
    return range(first, first + part)
