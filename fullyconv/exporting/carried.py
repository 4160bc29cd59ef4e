"""What an exported file carries along, read back by the means of its runtime."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fullyconv.runtimes.formats import FACTS, Format


def carried(file: Path, format: Format, names: Sequence[str]) -> dict[str, Any]:
    """The facts of these names that `runtimes.formats.write` put into a file.

    Raises:
        Exception: What the runtime makes of a file that is none of its own; KeyError for a fact that is not there.
    """
    texts = READERS[format](file, names)
    return {name: json.loads(texts[name]) for name in names}


def _in_onnx(file: Path, names: Sequence[str]) -> Mapping[str, str]:
    import onnx

    return {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}


def _in_openvino(file: Path, names: Sequence[str]) -> Mapping[str, str]:
    import openvino

    model = openvino.Core().read_model(file)
    return {name: str(model.get_rt_info(["fullyconv", name]).astype(str)) for name in names}


def _in_torch(file: Path, names: Sequence[str]) -> Mapping[str, str]:
    extra = {FACTS: ""}
    torch.export.load(file, extra_files=extra)
    return dict(json.loads(extra[FACTS]))


READERS = {"onnx": _in_onnx, "openvino": _in_openvino, "torch": _in_torch}
