"""The model folder as files."""

import os
from pathlib import Path

import torch

from fullyconv.artefact import write_tensors


def test_weights_may_be_read_by_whoever_may_read_other_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "model.safetensors", {"weight": torch.zeros(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640
