"""The house keeps its word: imports go down, names and options are the promised ones, every error code is tested."""

import ast
import inspect
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

import fullyconv
from fullyconv import arguments, cli
from fullyconv.errors import FAULTS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fullyconv"

# Imports go down: a room may import rooms that stand on a lower line, and its own.
FLOORS = (
    ("ahead", "errors", "geometry", "means", "progress", "wording", "writing"),
    ("labels", "arguments", "kernels", "tiffs"),
    ("drawing", "images", "losses", "metrics", "rasters", "sampling", "surgery", "timing", "transforms"),
    ("charts", "datasets", "hha", "models"),
    ("artefact", "doctor", "mask_folders", "released"),
    ("runtimes",),
    ("prediction",),
    ("converting", "importing"),
    ("report",),
    ("evaluation",),
    ("exporting", "training"),
    ("benchmark", "experiments", "serving"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

PROMISED = {
    "quickstart": {"--out"},
    "check": {"DATA", "--fix"},
    "train": {"DATA", "--model", "--out", "--epochs", "--steps", "--budget", "--resume"},
    "evaluate": {"MODEL", "DATA", "--split"},
    "score": {"PREDICTIONS", "TRUTH", "--data"},
    "predict": {"MODEL", "INPUTS...", "--out", "--tile"},
    "convert": {"CLASSIFIER", "--classes", "--out", "--stride", "--pretrained"},
    "import": {"FILE", "--as", "--out", "--classes"},
    "export": {"MODEL", "--format", "--precision", "--verify", "--calibrate", "--output", "--out"},
    "serve": {"MODEL", "--host", "--port", "--tile"},
    "benchmark": {"SUITE", "--repeats", "--out", "--quick"},
    "reproduce": {"NAME", "--data", "--minutes", "--out"},
    "explain": {"CODE"},
}


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def imported_rooms(path: Path) -> frozenset[str]:
    """The rooms that a file imports, at its top or inside a function; imports for type checking count as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fullyconv":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fullyconv.")}
    return frozenset(found)


@pytest.mark.parametrize("path", [path for path in sources(PACKAGE) if path != PACKAGE / "__init__.py"], ids=str)
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    assert room in FLOOR, f"{path.name} stands on no floor; draw it into FLOORS"
    upwards = [other for other in imported_rooms(path) - {room} if FLOOR[other] >= FLOOR[room]]
    assert not upwards, f"{room} imports {', '.join(upwards)}, which stand no lower"


def test_every_floor_is_lived_on() -> None:
    assert set(FLOOR) == {room_of(path) for path in sources(PACKAGE)} - {"__init__"}


def test_public_names_exist() -> None:
    for name in fullyconv.__all__:
        assert getattr(fullyconv, name).__name__ == name
    assert set(fullyconv.__all__) <= set(dir(fullyconv))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"module 'fullyconv' has no attribute 'trian'; it has .*train"):
        _ = fullyconv.trian


def function_of(command: str) -> object:
    module, name = cli.COMMANDS[command].split(":")
    return getattr(__import__(module, fromlist=[name]), name)


def options_of(command: str) -> set[str]:
    found = arguments.parameters(function_of(command))  # type: ignore[arg-type]
    return {parameter.shown if parameter.positional else parameter.option for parameter in found}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_commands_have_the_promised_options(command: str) -> None:
    assert options_of(command) >= PROMISED[command]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_a_screen_and_ends_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    assert lines[-1].startswith(f"Example: fullyconv {command}")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    found = arguments.parameters(function_of(command))  # type: ignore[arg-type]
    assert [parameter.name for parameter in found if not parameter.help] == []


def test_overview_tells_every_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45
    for command in cli.COMMANDS:
        (line,) = [line for line in lines if line.startswith(f"  {command} ")]
        assert line.endswith(".")
        assert not line.split()[1].endswith("s"), "a summary tells what to do: Score, not Scores"


def code_blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)


def test_python_in_the_readme_uses_names_that_exist() -> None:
    blocks = code_blocks(ROOT / "README.md", "python")
    assert blocks
    for node in ast.walk(ast.parse("\n".join(blocks))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fc":
            assert node.attr in fullyconv.__all__
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in fullyconv.__all__:
            signature = inspect.signature(getattr(fullyconv, node.func.attr))
            signature.bind(*node.args, **{keyword.arg: None for keyword in node.keywords if keyword.arg})


def test_commands_in_the_readme_have_the_options_they_use() -> None:
    lines = "\n".join(code_blocks(ROOT / "README.md", "(?:bash|sh)")).splitlines()
    commands = [
        shlex.split(line[line.index("fullyconv ") :], comments=True)[1:] for line in lines if "fullyconv " in line
    ]
    assert {"quickstart", "check", "train", "evaluate", "predict"} <= {words[0] for words in commands}
    for command, *words in commands:
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= options_of(command) | {"--json", "--config"}


def codes_in(folder: Path, pattern: str = r"SEG-[A-Z]\d{3}") -> set[str]:
    """The error codes in a folder's files, the catalogue left out."""
    files = [path for path in sources(folder) if path != PACKAGE / "errors.py"]
    return {code for path in files for code in re.findall(pattern, path.read_text())}


def test_every_code_in_use_is_explained() -> None:
    assert codes_in(PACKAGE) - set(FAULTS) == set()


def test_every_explained_code_is_in_use() -> None:
    assert set(FAULTS) - codes_in(PACKAGE) == set()


def test_every_code_is_tested() -> None:
    assert set(FAULTS) - codes_in(ROOT / "tests") == set()


def test_every_fault_is_told_whole() -> None:
    assert [
        code for code, fault in FAULTS.items() if not (fault.title and fault.why.endswith(".") and fault.cure)
    ] == []


def test_the_page_on_the_paper_names_what_exists() -> None:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    tests = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")}
    for file, name in re.findall(r"`(test_\w+)(?:::(test_\w+))?`", page):
        assert file in tests, file
        assert not name or f"def {name}(" in tests[file], f"{file}::{name}"
    for file, names in re.findall(r"`(\w[\w/]*\.py)`(?: \(((?:`\w+`(?:, )?)+)\))?", page):
        text = (PACKAGE / file).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b{name}\b", text), f"{file}: {name}"
    for room, name in re.findall(r"`([a-z_]+)\.(?!py`)(\w+)`", page):
        path = PACKAGE / f"{room}.py" if (PACKAGE / f"{room}.py").exists() else PACKAGE / room / "__init__.py"
        assert re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")), f"{room}.{name}"
    everything = set().union(*(options_of(command) for command in cli.COMMANDS))
    assert set(re.findall(r"`(?:\w+ )?(--[a-z]+)", page)) <= everything
