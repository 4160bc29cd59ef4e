"""What every test shares: shapes checked at run time, one thread, no accelerator, and the real data where they are."""

import os
from pathlib import Path
from typing import Any

# Before torch, numba and Triton are imported: they read these once.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

torch.set_num_threads(1)

# beartype knows NDArray[Any], but not its long spelling; and an int is a float to it, as to mypy, only when told. The
# sizes of a graph that is being exported are symbols.
checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,
        hint_overrides=FrozenDict({np.ndarray[Any, Any]: np.ndarray, int: int | torch.SymInt}),
    )
)

# Under test every annotation is checked at run time, tensor shapes included; users never pay for this.
install_import_hook("fullyconv", "conftest.checked")

ROOT = Path(__file__).resolve().parent.parent


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No workers where tests are named, by file or by -k: they are often done before workers have imported torch."""
    named = [argument for argument in config.args if Path(argument.partition("::")[0]).is_file()]
    return 0 if named or config.option.keyword else None


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets: `FULLYCONV_DATA`, or `../shared/data` beside the project."""
    root = Path(os.environ.get("FULLYCONV_DATA", ROOT.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data: {root} does not exist; set FULLYCONV_DATA to a folder that holds the data sets")
    return root
