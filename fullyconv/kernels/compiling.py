"""How the inner loops become machine code: by numba, on first use, and kept on disk where that is possible."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function as machine code that may fuse a multiply with an add, but neither reorders sums nor ignores NaN."""
    plain: Any = inspect.unwrap(function)  # without the run-time type checks that the tests wrap around it
    jitted: Any = numba.njit(plain, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
    return jitted  # type: ignore[no-any-return]


def instruction(function: Callable[..., Any]) -> Any:
    """A function whose LLVM instructions are given: `function` returns its signature and their generator."""
    return intrinsic(function)


def compiled_once(function: Function) -> Function:
    """As `compiled`, and kept on disk: beside the module, or else in the user's cache directory, or else nowhere."""
    jitted: Any = compiled(function)
    try:
        jitted.enable_caching()
    except RuntimeError:  # numba found no directory that it may write to
        return compiled(function)
    return jitted  # type: ignore[no-any-return]
