"""The processes that train together, if there are several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from accelerate import PartialState


@contextmanager
def process_group() -> Iterator["PartialState"]:
    """The processes that train together; those of a staged run for all of its stages.

    Accelerate's settings are forgotten after each run, or it would keep the first one's. The processes cannot part and
    find each other again, so that only the outermost run lets them go.
    """
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    if PartialState._shared_state:
        try:
            yield PartialState()
        finally:
            AcceleratorState._reset_state()
        return
    # Without `cpu`, processes on CPUs would not find each other; without the timeout, those that wait while the first
    # one draws its report would give up after ten minutes.
    cpu = not torch.accelerator.is_available()
    try:
        several = {"timeout": timedelta(hours=12)} if "RANK" in os.environ else {}
        state = PartialState(cpu=cpu, **several)
        yield state
        state.destroy_process_group()  # not after a fault: it would wait for processes that do not come
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def agreed(precision: Literal["fp32", "bf16"], state: "PartialState") -> Literal["fp32", "bf16"]:
    """The first process's choice: each has measured on its own."""
    if state.num_processes == 1:
        return precision
    from accelerate.utils import broadcast_object_list

    shared: list[Literal["fp32", "bf16"]] = [precision]
    broadcast_object_list(shared)
    return shared[0]
