"""The formats: how a graph is written for a runtime, and how that runtime runs the file."""

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fullyconv.errors import FullyconvError
from fullyconv.writing import whole

Array = np.ndarray[Any, Any]
Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "bf16", "int8"]
Run = Callable[[Array], Array]

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
FACTS = "fullyconv.json"  # in a .pt2 file

NEEDED: Mapping[str, Sequence[str]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
REFUSED = {
    ("onnx", "bf16"): "ONNX Runtime has no bf16 convolutions on the CPU; use --format openvino or torch",
    ("torch", "int8"): "torch.export has no int8 of its own; use --format onnx or openvino",
}


def refuse_impossible(format: Format, precision: Precision) -> None:
    """Raises SEG-X001 for a precision that a format has not, SEG-U009 if a package is missing that it needs."""
    if (format, precision) in REFUSED:
        raise FullyconvError(
            "SEG-X001", f"--format {format} has no --precision {precision}: {REFUSED[format, precision]}"
        )
    require(format, *(["nncf"] if (format, precision) == ("openvino", "int8") else []))


def require(format: Format, *more: str, option: str = "--format") -> None:
    """Raises SEG-U009 if a package is missing that a format's runtime needs.

    Args:
        format: The format, which is also the name of its extra.
        more: Packages that are needed besides.
        option: What asked for the format, to tell the user.
    """
    for package in (*NEEDED[format], *more):
        try:
            import_module(package)
        except ImportError:
            raise FullyconvError(
                "SEG-U009", f"{option} {format} needs {package}; install it: pip install 'fullyconv[{format}]'"
            ) from None


def write(
    program: torch.export.ExportedProgram,
    file: Path,
    format: Format,
    facts: Mapping[str, Any],
    calibration: Sequence[Array] | None = None,
) -> None:
    """Writes a graph as a file of a format, in int8 if there are images to calibrate it on.

    Args:
        program: As `pipeline.traced` gives it.
        file: Of the format's suffix; of OpenVINO, the weights come to stand beside it.
        format: What is written.
        facts: What the file carries along: classes, what goes in and out, provenance.
        calibration: Images `(1, H, W, C)` as the graph takes them.
    """
    WRITERS[format](program, file, {name: json.dumps(value) for name, value in facts.items()}, calibration)


def place(written: Path, file: Path) -> None:
    """Copies what `write` wrote to its place: every file of it whole, the weights before the graph that names them.

    Args:
        written: Alone in its folder with what stands beside it.
        file: Of the same suffix.
    """
    for part in sorted(written.parent.glob(f"{written.stem}.*")):
        with whole(file.with_suffix(part.suffix)) as draft:
            shutil.copyfile(part, draft)


def _write_onnx(
    program: torch.export.ExportedProgram, file: Path, facts: Mapping[str, str], calibration: Sequence[Array] | None
) -> None:
    import onnx

    with _quiet():
        exported = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["image"], output_names=["pred"])
    assert exported is not None
    exported.save(file)
    if calibration is not None:
        _quantize_onnx(file, calibration)
    model = onnx.load(file)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.save(model, file)


def _quantize_onnx(file: Path, calibration: Sequence[Array]) -> None:
    """Turns the convolutions of an ONNX file into int8, but for those that score: they decide between classes."""
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Images one at a time: the calibrator keeps every map of those that it is given at once."""

        def __len__(self) -> int:
            return len(calibration)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(calibration[start_index:end_index])

        def get_next(self) -> dict[str, Array] | None:
            return next(({"image": image} for image in self.left), None)

    scoring = [node.name for node in onnx.load(file).graph.node if any("score_layers" in name for name in node.input)]
    with _quiet():
        quantization.quantize_static(
            file,
            file,
            Reader(),
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=scoring,
            per_channel=True,
            # Processors multiply unsigned by signed numbers: with AVX-512 VNNI resnet18 takes 61 ms, and 101 ms with
            # both signed.
            activation_type=quantization.QuantType.QUInt8,
            # Ranges without the outermost hundred-thousandth: mobilenetv3's labels on CamVid agree with the model's at
            # 97.5 % of the pixels, and at 95.7 % by smallest and largest value.
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": 99.999, "CalibStridedMinMax": 1},
        )


def _write_openvino(
    program: torch.export.ExportedProgram, file: Path, facts: Mapping[str, str], calibration: Sequence[Array] | None
) -> None:
    import openvino

    graph = file.with_suffix(".onnx")
    _write_onnx(program, graph, {}, None)
    model = openvino.convert_model(graph)
    graph.unlink()
    if calibration is not None:
        model = _quantized_openvino(model, calibration)
    for name, value in facts.items():
        model.set_rt_info(value, ["fullyconv", name])
    openvino.save_model(model, file, compress_to_fp16=False)


def _quantized_openvino(model: Any, calibration: Sequence[Array]) -> Any:
    with _quiet():
        import nncf

        scoring = nncf.IgnoredScope(patterns=[".*score_layers.*"], validate=False)
        return nncf.quantize(model, nncf.Dataset(calibration), ignored_scope=scoring)


def _write_torch(
    program: torch.export.ExportedProgram, file: Path, facts: Mapping[str, str], calibration: Sequence[Array] | None
) -> None:
    assert calibration is None, "refused before"
    with _quiet():
        torch.export.save(program, file, extra_files={FACTS: json.dumps(dict(facts))})


WRITERS = {"onnx": _write_onnx, "openvino": _write_openvino, "torch": _write_torch}


def opened(file: Path, format: Format, precision: Precision) -> Run:
    """The file in its own runtime on the CPU, as a function from images `(N, H, W, C)` to what the graph gives."""
    return RUNTIMES[format](file, precision)


def _open_onnx(file: Path, precision: Precision) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    # Idle threads would wait in a loop and keep the cores from what comes next: after a resnet18 the packed one took
    # 106 ms instead of 70. Without, ONNX Runtime itself is no slower, and small networks are faster.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(None, {"image": image})[0])


def _open_openvino(file: Path, precision: Precision) -> Run:
    import openvino

    # Left to itself, OpenVINO computes fp32 files in bf16 where the processor can.
    hint = "bf16" if precision == "bf16" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(file, "CPU", settings)
    return lambda image: np.asarray(compiled(image)[0])


def _open_torch(file: Path, precision: Precision) -> Run:
    module = torch.export.load(file).module()

    def run(image: Array) -> Array:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(image)).numpy())

    return run


RUNTIMES = {"onnx": _open_onnx, "openvino": _open_openvino, "torch": _open_torch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters and quantisers warn of their own code and tell every step; what a user should know raises."""
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(threshold)
