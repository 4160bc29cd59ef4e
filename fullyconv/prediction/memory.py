"""How much memory a network takes for a window, known before it runs, and how much there is."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fullyconv.models import FCN
from fullyconv.surgery import blueprint

M_MMAP_THRESHOLD = -3  # of malloc.h

OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive", "Failed to allocate memory")
"""What torch, oneDNN in it, and ONNX Runtime say in errors of other types."""

OWN_SHARE = 1.3
"""What the process takes for each byte of the network's maps, as convolutions reorder them. Measured on the CPU: 1.1
for fcn8s-resnet18 and 1.16 for -mobilenetv3_large_100, packed; plain 1.12, and 1.01 for -vgg16, 1.29 for -resnet50."""


def memory_of_scores(model: FCN, size: tuple[int, int]) -> int:
    """The most bytes that the maps of a network take at a time while it scores an image, its pixels included.

    The network runs without numbers, so this takes no memory itself and 0.02 to 0.2 s.

    Args:
        model: In evaluation mode; or its blueprint, which saves making one.
        size: Height and width of the image.
    """
    shadow = model if model.mean.is_meta else blueprint(model)
    with torch.inference_mode(), _Living() as living:
        image = torch.empty(1, model.mean.shape[1], *size, device="meta")
        shadow.scores(image.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
    return int(OWN_SHARE * living.most)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take: on a GPU its own memory, else the machine's and that of its cgroup."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    free: int = psutil.virtual_memory().available
    return min([free, *_free_in_cgroups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def process_memory() -> int:
    """Bytes of this process that are in memory."""
    return int(psutil.Process().memory_info().rss)


def keep_no_freed_maps() -> None:
    """Lets this process return every map to the system as soon as it is freed.

    That is for Linux with glibc, which else keeps maps below 32 MB and scatters new ones among them. Measured on
    5000x5000 pixels in 16 windows of a resnet18: at most 1.57 GB in place of 1.96, and no slower.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(M_MMAP_THRESHOLD, 1 << 20)


def ran_out(fault: BaseException) -> bool:
    """Whether a fault says that there is no more memory, here or on a GPU."""
    if isinstance(fault, MemoryError | torch.OutOfMemoryError):
        return True
    return any(said in str(fault) for said in OUT_OF_MEMORY)


class _Living(TorchDispatchMode):
    """Counts the bytes of all tensors that functions give, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in _tensors(args)}
        for storage in (tensor.untyped_storage() for tensor in _tensors([output])):
            if storage._cdata not in given:
                self._living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        gone = [key for key, (living, _) in self._living.items() if living.expired()]  # type: ignore[no-untyped-call]
        for key in gone:
            del self._living[key]
        self.most = max(self.most, sum(size for _, size in self._living.values()))
        return output


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _free_in_cgroups(memberships: Path, mount: Path) -> Iterator[int]:
    """What the limits of this process's control groups leave, and those of the groups around them, versions 1 and 2.

    Args:
        memberships: The kernel's list, one `number:controllers:path` a line; there is none but on Linux.
        mount: Where the groups are files.
    """
    if not memberships.exists():
        return
    for line in memberships.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = mount / controllers
        names = (
            ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        # In a container the group is mounted as the root, under no path.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            folder = root / group.relative_to("/")
            limit, used = folder / names[0], folder / names[1]
            if limit.exists() and limit.read_text().strip() != "max":
                yield int(limit.read_text()) - int(used.read_text()) + _reclaimable(folder / "memory.stat")


def _reclaimable(stat: Path) -> int:
    """Bytes of files that the kernel keeps in memory for as long as nobody wants them, in a group's statistics."""
    lines = dict(line.split() for line in stat.read_text().splitlines())
    return int(lines.get("total_inactive_file", lines.get("inactive_file", 0)))
