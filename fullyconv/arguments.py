"""From a function to its command line: signature and docstring become options, help, and the values of the call."""

import difflib
import functools
import inspect
import json
import math
import re
import textwrap
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from fullyconv.errors import FullyconvError

WIDTH = 100
COLUMN = 35
CONFIG_HELP = "YAML file of options, such as args.yaml; those given here win."
MORE_HELP = "   (--help-all says more)"
JSON_HELP = "Print one JSON object on stdout, and everything else on stderr."

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Within:
    """The range of a number, as part of its annotation: `Annotated[float, Within(least=0, below=1)]`.

    Args:
        least: It may be this or more.
        most: It may be this or less.
        above: It must be more than this.
        below: It must be less than this.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.least <= number <= self.most and self.above < number < self.below

    def __str__(self) -> str:
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))


Count = Annotated[int, Within(least=1)]


def bounded(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which refuses numbers that are not `Within` what its annotations say, and words that are not of
    their `Literal`.

    Raises:
        FullyconvError: SEG-U004 from the function, naming the option, and its range or its words.
    """
    signature = inspect.signature(function, eval_str=True)
    hints = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    choices = {name: _words(hint) for name, hint in hints.items()}
    ranges = {name: _marks(parameter.annotation, Within) for name, parameter in signature.parameters.items()}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            values = value if isinstance(value, list | tuple) else [value]
            numbers = [number for number in values if isinstance(number, int | float)]
            if choices[name] and value not in choices[name]:
                expected = ", ".join(str(word) for word in choices[name] if word is not None)
                raise FullyconvError("SEG-U004", f"{_option(name)} must be one of {expected}, got {value!r}")
            for limits in ranges[name]:
                if not all(number in limits for number in numbers):
                    shown = ",".join(map(str, numbers))
                    raise FullyconvError("SEG-U004", f"{_option(name)} must be {limits}, got {shown}")
        return function(*args, **kwargs)

    return checked


@dataclass(frozen=True)
class Parameter:
    """One parameter of a command's function, as the command line gives it.

    Args:
        name: The name in Python.
        annotation: What text can stand for: `str`, `int`, `float`, `bool`, `Path`, `Literal`, lists and unions of them.
        default: The value if left out; `inspect.Parameter.empty` if it must be given.
        positional: Whether it is given by its place instead of by `--name`.
        placeholder: What stands for a text in usage and help: the text in `Annotated[str, "TIME"]`, else its name.
        help: Its entry under `Args:`.
    """

    name: str
    annotation: Any
    default: Any
    positional: bool
    placeholder: str
    help: str

    @property
    def option(self) -> str:
        return _option(self.name)

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def several(self) -> bool:
        """Whether it takes a list."""
        return any(get_origin(member) is list for member in _members(self.annotation))

    @property
    def flag(self) -> bool:
        """Whether it is given bare: `--resume`, `--no-resume`."""
        return set(_members(self.annotation)) <= {bool, types.NoneType}

    @property
    def shown(self) -> str:
        """How usage and help write it: `DATA`, `INPUTS...`, `--epochs N`, `--resume`, `--no-ema`."""
        if self.positional:
            return self.name.upper() + ("..." if self.several else "")
        if self.flag:
            return _negative(self.option) if self.default is True else self.option
        return f"{self.option} {_placeholder(self.annotation, self.placeholder)}"


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a function that text can give, in order; callbacks and the like are left out."""
    from docstring_parser import parse

    entries = parse(inspect.getdoc(function) or "").params
    helps = {entry.arg_name.lstrip("*"): " ".join((entry.description or "").split()) for entry in entries}
    found = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        rest = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        annotation = _textual(types.GenericAlias(list, (parameter.annotation,)) if rest else parameter.annotation)
        if annotation is not None:
            positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
            placeholder = _placeholder_for(name, parameter.annotation)
            found.append(Parameter(name, annotation, parameter.default, positional, placeholder, helps.get(name, "")))
    return found


def call(function: Callable[..., Any], command: str, words: Sequence[str], *, configurable: bool = False) -> Any:
    """What the function returns for the words of a command line.

    Args:
        function: Its positional parameters are given by place, its keyword-only ones as options.
        command: The name to use in messages.
        words: What follows the command.
        configurable: Whether `--config FILE` may give options too.

    Raises:
        FullyconvError: SEG-U002 to SEG-U006 for words that do not fit the signature.
    """
    signature = inspect.signature(function)
    values = _values(f"fullyconv {command}", parameters(function), list(words), configurable)
    places, options = [], {}
    for name, parameter in signature.parameters.items():
        if name in values and parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            places += values[name]
        elif name in values:
            options[name] = values[name]
    bound = signature.bind_partial(**options)
    return function(*bound.args, *places, **bound.kwargs)


def help_text(function: Callable[..., Any], command: str, *, configurable: bool = False, whole: bool = False) -> str:
    """Usage, what the command does, its parameters, an example.

    Args:
        function: Of the command.
        command: Its name.
        configurable: Whether it takes `--config FILE`.
        whole: Whether all is told of each parameter; else a line or two, so that the text fits a screen.
    """
    expected = parameters(function)
    text = inspect.getdoc(function) or ""
    places = [parameter for parameter in expected if parameter.positional]
    options = [parameter for parameter in expected if not parameter.positional]
    usage = [parameter.shown if parameter.required else f"[{parameter.shown}]" for parameter in places]
    usage += [parameter.shown for parameter in options if parameter.required]
    rows = [(parameter.shown, _help_with_default(parameter, whole)) for parameter in (*places, *options)]
    rows += [("--config PATH", CONFIG_HELP)] if configurable else []
    more = not whole and any(_first_sentence(parameter.help) != parameter.help for parameter in expected)
    example = textwrap.dedent(text.partition("\nExample:\n")[2]).strip()
    return "\n".join(
        [
            f"usage: fullyconv {' '.join([command, *usage, '[options]'])}{MORE_HELP if more else ''}",
            textwrap.fill(text.partition("\n")[0], WIDTH),
            "",
            *(_row(left, right) for left, right in [*rows, ("--json", JSON_HELP)]),
            *(["", "Example: " + textwrap.indent(example, " " * 9).lstrip()] if example else []),
        ]
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean WORD?` with the most similar known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _option(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"  # Python spells `as_` what is a word of its own


# Annotations: what text can stand for, and how to say it -------------------------------------------------------------


def _marks(annotation: Any, kind: type[R]) -> list[R]:
    """What `Annotated` adds to an annotation or to any part of it, of one kind."""
    own = annotation.__metadata__ if get_origin(annotation) is Annotated else ()
    parts = [mark for part in get_args(annotation) for mark in _marks(part, kind)]
    return [mark for mark in own if isinstance(mark, kind)] + parts


def _textual(annotation: Any) -> Any:
    """The part of an annotation that text can stand for, or None: `str | Path | Segmenter` is `str`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _textual(arguments[0])
    if annotation in (str, int, float, bool, Path) or origin is Literal:
        return annotation
    if origin in (Union, types.UnionType):
        members = [_textual(member) for member in arguments if member is not types.NoneType]
        kept = [member for member in members if member is not None and not (member is Path and str in members)]
        kept += [types.NoneType] if kept and types.NoneType in arguments else []
        return Union[tuple(kept)] if kept else None  # noqa: UP007
    if origin is tuple and Ellipsis not in arguments:
        members = [_textual(member) for member in arguments]
        return types.GenericAlias(tuple, tuple(members)) if all(members) else None
    if origin in (list, tuple, Sequence, Iterable):
        member = _textual(arguments[0])
        return types.GenericAlias(list, (member,)) if member else None
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _placeholder(annotation: Any, name: str) -> str:
    members = [member for member in _members(annotation) if member is not types.NoneType]
    return "|".join(dict.fromkeys(_placeholder_of(member, name) for member in members))


def _placeholder_of(member: Any, name: str) -> str:
    if get_origin(member) is Literal:
        return "|".join(str(choice) for choice in get_args(member))
    if get_origin(member) is tuple:
        return ",".join(_placeholder(inner, name) for inner in get_args(member))
    if get_origin(member) is list:
        return _placeholder(get_args(member)[0], name) + ",..."
    return {int: "N", float: "X", bool: "true|false", Path: "PATH"}.get(member, name)


def _placeholder_for(name: str, annotation: Any) -> str:
    """What stands for a text: as the annotation says, PATH where it may be one, else the last word of the name."""
    word = "name" if name.endswith("_") else "path" if Path in get_args(annotation) else name.rpartition("_")[2]
    return next(iter(_marks(annotation, str)), word.upper())


def _expected(annotation: Any) -> str:
    return " or ".join(_expected_of(member) for member in _members(annotation))


def _expected_of(member: Any) -> str:
    if get_origin(member) is Literal:
        return " or ".join(str(choice) for choice in get_args(member))
    if get_origin(member) is tuple:
        return f"{len(get_args(member))} values with commas between"
    if get_origin(member) is list:
        return "values with commas between"
    names = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", types.NoneType: "none"}
    return names.get(member, "text")


# Words to values -----------------------------------------------------------------------------------------------------


def _values(command: str, expected: list[Parameter], words: list[str], configurable: bool) -> dict[str, Any]:
    """The values that the words stand for, by parameter name; what is left out is absent."""
    options = {parameter.option: parameter for parameter in expected if not parameter.positional}
    places, given = _sorted_out(command, options, words, configurable)
    config = given.pop("--config", None)
    texts = _placed(command, [parameter for parameter in expected if parameter.positional], places)
    texts.update({options[option].name: _spelled(options[option].annotation, text) for option, text in given.items()})
    values = _parsed(command, expected, texts, config)
    missing = [parameter.shown for parameter in expected if parameter.required and parameter.name not in values]
    if missing:
        raise FullyconvError("SEG-U003", f"{command} needs {' and '.join(missing)}{_see(command)}")
    return values


def _sorted_out(
    command: str, options: dict[str, Parameter], words: list[str], configurable: bool
) -> tuple[list[str], dict[str, str]]:
    """The words that stand by place, and those given by option, with hyphens; options may stand anywhere."""
    flags = {option for option, parameter in options.items() if parameter.flag}
    negatives = {_negative(option): option for option in flags}
    known = [*options, *negatives, "--json", "--help", "--help-all", *(["--config"] if configurable else [])]
    places: list[str] = []
    given: dict[str, str] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return places + queue, given
        if not word.startswith("--"):
            places.append(word)
            continue
        option, equals, text = word.partition("=")
        option = option.replace("_", "-")
        if option not in known:
            raise FullyconvError(
                "SEG-U002", f"{command} has no option {option}{nearest(option, known) or _see(command)}"
            )
        if option in negatives:
            given[negatives[option]] = "false"
        elif equals:
            given[option] = text
        elif option in flags:
            given[option] = "true"
        elif queue and not queue[0].startswith("--"):
            given[option] = queue.pop(0)
        else:
            raise FullyconvError("SEG-U003", f"{option} needs a value{_see(command)}")
    return places, given


def _placed(command: str, expected: list[Parameter], places: list[str]) -> dict[str, str]:
    """The values given by place, by parameter name; one that takes several takes all that the others leave."""
    spare = len(places) - len(expected)
    if spare > 0 and not any(parameter.several for parameter in expected):
        takes = " ".join(parameter.shown for parameter in expected) or "options only"
        raise FullyconvError("SEG-U003", f"{command} takes {takes}; {places[-1]} is one too many{_see(command)}")
    found = {}
    queue = list(places)
    for parameter in expected:
        if queue and parameter.several:
            count = max(1, spare + 1)
            found[parameter.name], queue = json.dumps(queue[:count]), queue[count:]
        elif queue:
            found[parameter.name] = queue.pop(0)
    return found


def _words(annotation: Any) -> tuple[Any, ...]:
    """All values of an annotation that is a `Literal`, or one or None; of any other, none."""
    members = [member for member in _members(annotation) if member is not types.NoneType]
    if not members or any(get_origin(member) is not Literal for member in members):
        return ()
    optional = (None,) if len(members) < len(_members(annotation)) else ()
    return (*(word for member in members for word in get_args(member)), *optional)


def _spelled(annotation: Any, text: str) -> str:
    """The text of an option in YAML: `none` is null; `288x384` and `road,sky` are lists."""
    members = [member for member in _members(annotation) if member is not types.NoneType]
    lists = [member for member in members if get_origin(member) in (list, tuple)]
    if text.lower() == "none" and len(members) < len(_members(annotation)):
        return "null"
    if not lists or text.startswith("["):
        return text
    if re.fullmatch(r"\d+x\d+", text):
        return f"[{text.replace('x', ',')}]"
    if "," not in text and len(lists) < len(members):
        return text
    return json.dumps(text.split(",")) if str in get_args(lists[0]) else f"[{text}]"


def _parsed(command: str, expected: list[Parameter], texts: dict[str, str], config: str | None) -> dict[str, Any]:
    """Text and configuration file turned into values; text wins over the file."""
    from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser

    if config is not None and not Path(config).is_file():
        raise FullyconvError("SEG-U006", f"--config {config}: there is no such file")
    parser = ArgumentParser(prog=command, exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    for parameter in expected:
        parser.add_argument(f"--{parameter.name}", type=parameter.annotation, default=SUPPRESS)
    from_file = [] if config is None else [f"--config={config}"]
    try:
        parsed = parser.parse_args([*from_file, *(f"--{name}={text}" for name, text in texts.items())])
    except ArgumentError as fault:
        raise _misfit(command, expected, texts, config, str(fault)) from None
    return {name: value for name, value in vars(parsed).items() if name != "config"}


def _misfit(
    command: str, expected: list[Parameter], texts: dict[str, str], config: str | None, message: str
) -> FullyconvError:
    """What the parser refused, in one sentence with the cure."""
    by_name = {parameter.name: parameter for parameter in expected}
    unknown = re.search(r"Option '([^']+)' is not accepted", message)
    if unknown:
        return FullyconvError(
            "SEG-U006", f"{config}: {command} has no option {unknown[1]}{nearest(unknown[1], by_name) or _see(command)}"
        )
    key = re.search(r'Parser key "(\w+)"', message)
    if key is None or key[1] not in by_name:
        return FullyconvError("SEG-U006", f"{config}: {' '.join(message.split())}")
    parameter = by_name[key[1]]
    takes = f"takes {_expected(parameter.annotation)}"
    if parameter.name not in texts:
        return FullyconvError("SEG-U004", f"{config}: {parameter.name} {takes}")
    text = texts[parameter.name]
    choices = [choice for member in _members(parameter.annotation) for choice in get_args(member)]
    near = nearest(text, [choice for choice in choices if isinstance(choice, str)])
    return FullyconvError(
        "SEG-U004", f"{parameter.shown if parameter.positional else parameter.option} {takes}, got {text}{near}"
    )


# Help ----------------------------------------------------------------------------------------------------------------


def _help_with_default(parameter: Parameter, whole: bool) -> str:
    help, default = parameter.help if whole else _first_sentence(parameter.help), parameter.default
    if parameter.required or parameter.flag or default is None or default == ():
        return help
    shown = ",".join(str(value) for value in default) if isinstance(default, tuple | list) else str(default)
    return f"{help} [{shown}]"


def _row(left: str, right: str) -> str:
    lines = textwrap.wrap(right, WIDTH - COLUMN) or [""]
    if len(left) > COLUMN - 3:
        lines.insert(0, "")
    first = f"  {left:<{COLUMN - 2}}{lines[0]}".rstrip()
    return "\n".join([first, *(" " * COLUMN + line for line in lines[1:])])


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", text, maxsplit=1)[0]


def _negative(option: str) -> str:
    return option.replace("--", "--no-", 1)


def _see(command: str) -> str:
    return f"; see {command} --help"
