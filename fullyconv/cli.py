"""The command line: every command is a plain function whose signature and docstring become its options and help.

Only the standard library is imported up here, so that `fullyconv --help` answers at once; the room of a command, and
torch with it, is imported when the command is known.
"""

import ast
import contextlib
import dataclasses
import errno
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fullyconv.arguments import WIDTH, call, help_text, nearest
from fullyconv.errors import FAULTS, Fault, FullyconvError
from fullyconv.writing import FULL

COMMANDS = {
    "quickstart": "fullyconv.experiments.quickstart:quickstart",
    "check": "fullyconv.doctor:check",
    "train": "fullyconv.training:train",
    "evaluate": "fullyconv.evaluation:evaluate",
    "score": "fullyconv.evaluation:score",
    "predict": "fullyconv.prediction:predict_files",
    "convert": "fullyconv.converting:convert_classifier",
    "import": "fullyconv.importing:import_weights",
    "export": "fullyconv.exporting:export",
    "serve": "fullyconv.serving:serve",
    "benchmark": "fullyconv.benchmark.command:benchmark",
    "reproduce": "fullyconv.experiments.reproduction:reproduce",
    "explain": "fullyconv.cli:explain",
}
CONFIGURABLE = frozenset({"train"})  # the commands with options enough to keep in a file
FAILED = 1  # all was done, and a promise of the result is broken
REFUSED = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
CLOSED_PIPE = 141  # 128 + SIGPIPE
DISK_FAULTS = FULL | {errno.EROFS, errno.EIO}  # raised by writing, without the file's name


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives 0, or 1 for a broken promise, 2 for a fault of the input, 130 after Ctrl-C.

    Args:
        arguments: The command and its words; those of the process if left out.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _answer(words)
        sys.stdout.flush()
    except BrokenPipeError:  # as in `fullyconv explain | head -1`: nobody reads on, which is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return status


def _answer(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("fullyconv"))
        return 0
    as_json = "--json" in words
    try:
        return _run(words[0], [word for word in words[1:] if word != "--json"], as_json)
    except FullyconvError as fault:
        return _refuse(fault, as_json)
    except OSError as fault:
        if fault.filename is None and fault.errno not in DISK_FAULTS:  # not about a file: the network, a pipe
            raise
        cure = "check the path, its permissions and the free space"
        place = fault.filename or "the output"
        return _refuse(FullyconvError("SEG-U007", f"{place}: {fault.strerror}; {cure}"), as_json)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped; nothing was saved", file=sys.stderr)
        return INTERRUPTED


def explain(code: str | None = None) -> "Explanation":
    """Explain an error code: what went wrong, why, and the cure; without a code, list them all.

    Args:
        code: An error code such as SEG-D010.

    Example:
        fullyconv explain SEG-D010
    """
    if code is None:
        return Explanation(FAULTS)
    wanted = code.upper() if code.upper().startswith("SEG-") else f"SEG-{code.upper()}"
    if wanted not in FAULTS:
        raise FullyconvError("SEG-U005", f"no error has the code {code}{nearest(wanted, FAULTS)}")
    return Explanation({wanted: FAULTS[wanted]})


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Entries of the catalogue of faults: one is printed whole, several as a list."""

    faults: dict[str, Fault]

    def __str__(self) -> str:
        if len(self.faults) > 1:
            return "\n".join(f"{code}  {fault.title}" for code, fault in sorted(self.faults.items()))
        return "\n".join(
            f"{code}  {fault.title}\n\n{_labelled('Why:  ', fault.why)}\n\n{_labelled('Cure: ', fault.cure)}"
            for code, fault in self.faults.items()
        )

    def to_json(self) -> dict[str, Any]:
        return {"faults": [{"code": code, **dataclasses.asdict(fault)} for code, fault in sorted(self.faults.items())]}


def _run(command: str, words: list[str], as_json: bool) -> int:
    if command not in COMMANDS:
        cure = nearest(command, COMMANDS) or "; fullyconv --help lists them"
        raise FullyconvError("SEG-U001", f"there is no command {command}{cure}")
    function = _function(command)
    configurable = command in CONFIGURABLE
    if {"-h", "--help", "--help-all"} & set(words):
        print(help_text(function, command, configurable=configurable, whole="--help-all" in words))
        return 0
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        result = call(function, command, words, configurable=configurable)
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first one speaks
        return 0
    if as_json:
        print(json.dumps(_plain(result), allow_nan=False))
    elif result is not None:
        print(result)
    if getattr(result, "errors", ()):
        return REFUSED
    return FAILED if getattr(result, "failed", False) else 0


def _function(command: str) -> Callable[..., Any]:
    module, name = COMMANDS[command].split(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _refuse(fault: FullyconvError, as_json: bool) -> int:
    print(fault, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": {"code": fault.code, "message": fault.message}}))
    return REFUSED


def _overview() -> str:
    commands = "\n".join(f"  {command:<12}{_summary(target)}" for command, target in COMMANDS.items())
    return f"""usage: fullyconv COMMAND ...

Fully convolutional networks for semantic segmentation.

{commands}

DATA is a folder whose layout is recognised, or LAYOUT:PATH; both take options, such as 'DATA?train=trainval&val=test'.
MODEL is a model folder or a run folder.
Every command takes --json, --help, and --help-all for all there is to say.

Example: fullyconv train data/ --out runs/a --budget 30m"""


def _summary(target: str) -> str:
    """The first docstring line of `module:function`, read from the source so that nothing heavy is imported."""
    module, name = target.split(":")
    path = Path(__file__).parent.joinpath(*module.split(".")[1:])
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _summary(f"{node.module}:{name}")
    raise LookupError(f"{module} has no function {name}")


def _labelled(label: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label))


def _plain(value: Any) -> Any:
    """A result as JSON can hold it: by its own `to_json` or its fields; a path as text, NaN as null."""
    if hasattr(value, "to_json"):
        return _plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
