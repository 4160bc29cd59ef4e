"""How the inner loops become machine code: by numba, on first use, and kept on disk where that is possible."""

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
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
        jitted._cache = _Cache(jitted.py_func)
    except RuntimeError:  # numba found no directory that it may write to
        return compiled(function)
    return jitted  # type: ignore[no-any-return]


class _Cache(FunctionCache):
    """Machine code on disk, for as long as no source has changed that it may have been made of.

    Numba by itself looks at the function's own file; what it calls and the constants that it holds lie in others.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        base, stamp = self._impl.filename_base, _digest_of_sources(function)
        self._cache_file = IndexDataCacheFile(self.cache_path, base, stamp)  # type: ignore[no-untyped-call]


def _digest_of_sources(function: Callable[..., Any]) -> str:
    """Of the modules beside a function, and of those beside this one."""
    digest = hashlib.blake2b(digest_size=16)
    folders = {Path(__file__).parent, Path(inspect.getfile(function)).parent}
    for file in sorted(file for folder in folders for file in folder.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
