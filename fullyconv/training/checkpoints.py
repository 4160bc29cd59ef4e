"""Checkpoints: everything that training needs to go on with the same bits, in one file without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fullyconv.artefact import write_tensors
from fullyconv.errors import FullyconvError
from fullyconv.writing import whole

KEPT = 2


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
    """Writes `step-NNNNNNN.safetensors` so that it is either whole or absent, and keeps the newest two.

    Args:
        folder: Of the run's checkpoints.
        step: Optimiser steps taken.
        tensors: Weights, averages, optimiser state.
        values: Plain values for JSON, kept in the file's header.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{step:07d}.safetensors"
    drafts = (*folder.glob(".step-*"), *folder.glob(".tmp??????"))  # those of `whole`, and of the library in it
    for killed in filter(Path.is_file, drafts):
        killed.unlink()
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole(file, durable=True) as draft:
        write_tensors(draft, flat, {"values": json.dumps({**values, "step": step})})
    for old in files(folder)[:-KEPT]:
        old.unlink()
    return file


def files(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest readable checkpoint, or None where there is none.

    Raises:
        FullyconvError: SEG-T003 if there are checkpoints but none can be read.
    """
    found = files(folder)
    for file in reversed(found):
        try:
            with safe_open(file, framework="pt") as handle:
                values = json.loads(handle.metadata()["values"])
                return {name: handle.get_tensor(name) for name in handle.keys()}, values  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
            continue
    if found:
        raise FullyconvError("SEG-T003", f"no checkpoint in {folder} can be read; train anew under another --out")
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: `optimizer.INDEX.KEY`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{key}": torch.as_tensor(value)
        for index, values in state.items()
        for key, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts `optimizer_tensors` back, changing the optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            parameter = parameters[int(index)]
            # In the parameter's own memory format: another order of summation would be another rounding.
            alike = tensor.shape == parameter.shape
            state.setdefault(int(index), {})[key] = (
                torch.empty_like(parameter, requires_grad=False).copy_(tensor) if alike else tensor
            )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
