"""The door to the paper's experiments: run one by name, show our numbers beside the paper's, keep them in a folder."""

import inspect
import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from fullyconv import charts
from fullyconv.arguments import nearest
from fullyconv.errors import FullyconvError
from fullyconv.experiments import EXPERIMENTS, Experiment
from fullyconv.experiments.findings import Findings, columns, markdown, shown, table
from fullyconv.experiments.scenes import known_data
from fullyconv.experiments.workbench import Settings, Workbench
from fullyconv.writing import write_json


@dataclass(frozen=True)
class Listing:
    """The experiments that there are."""

    experiments: Mapping[str, Experiment]

    def to_json(self) -> dict[str, Any]:
        return {
            "experiments": [
                {"name": name, "title": experiment.title, "source": experiment.source}
                for name, experiment in self.experiments.items()
            ]
        }

    def __str__(self) -> str:
        wide = max(map(len, self.experiments))
        rows = [
            f"{name:<{wide}}  {experiment.title} ({experiment.source})" for name, experiment in self.experiments.items()
        ]
        return "\n".join([*rows, "", "Run one by its name: fullyconv reproduce table1"])


@dataclass(frozen=True)
class Reproduction:
    """One experiment, done.

    Args:
        settings: What was asked for.
        findings: Machine, data and minutes are among their conditions.
        out: Folder with findings.json, findings.md, plot.png, the parts and the training runs.
    """

    settings: Settings
    findings: Findings
    out: Path

    def to_json(self) -> dict[str, Any]:
        """`{"experiment", "title", "source", "rows", "conclusion", "conditions", "curves", "out", "files"}`."""
        experiment = EXPERIMENTS[self.settings.name]
        return {
            "experiment": self.settings.name,
            "title": experiment.title,
            "source": experiment.source,
            **self.findings.to_json(),
            "out": str(self.out),
            "files": {kind: str(self.out / name) for kind, name in FILES.items()},
        }

    def __str__(self) -> str:
        return _terminal(self)


FILES = {"json": "findings.json", "table": "findings.md", "plot": "plot.png"}


def reproduce(
    name: str | None = None,
    *,
    data: str | None = None,
    also: Sequence[str] = (),
    camera: str | None = None,
    minutes: float = 10.0,
    out: Path | None = None,
    resume: bool = False,
    trunk: str = "resnet10t",
    pretrained: str = "auto",
    seed: int = 0,
) -> Reproduction | Listing:
    """Repeat an experiment of the paper on the data that are there, and show our numbers beside the paper's.

    Args:
        name: Of the experiment; without a name they are listed.
        data: A path whose layout is recognised, or LAYOUT:PATH. Left out, a suitable folder below $FULLYCONV_DATA, or
            else the handwritten digits that come with scikit-learn.
        also: For two-heads, other masks of the same images: [NAME=]DATA.
        camera: For rgbd, what took the depth, from which HHA is made then: FX,FY,CX,CY,METRES, focal lengths and centre
            in pixels, and the metres of one unit. The centre of the first pixel is 0,0. NYUDv2's is known.
        minutes: Time limit; training runs share it evenly. Where it is too short, each net gets a few steps.
        out: Folder for the findings; reproductions/NAME if left out.
        resume: Go on with the experiment in --out, by its own settings; without --out, with the last one of NAME.
        trunk: Classifier below the nets that are trained: vgg16 as in the paper, or any of timm's.
        pretrained: What the nets start from: crops (a classifier of crops of the same data, trained first), none, hub
            (timm's weights), a weight file, or an earlier run; auto is crops, and none for rgbd.
        seed: The first of the seeds.

    Example:
        fullyconv reproduce table2 --data VOCdevkit --minutes 60 --out table2
    """
    asked = {
        "data": data,
        "also": tuple(also),
        "camera": camera,
        "minutes": minutes,
        "trunk": trunk,
        "pretrained": pretrained,
        "seed": seed,
    }
    unsaid = inspect.signature(reproduce).parameters
    given = {option: value for option, value in asked.items() if value != unsaid[option].default}
    if name is None and out is None and not (given or resume):
        return Listing(EXPERIMENTS)
    if name is None and not (resume and out):
        raise FullyconvError("SEG-R001", "no experiment is named; `fullyconv reproduce` lists them")
    if name is not None and name not in EXPERIMENTS:
        hint = nearest(name, EXPERIMENTS) or f"; there are {', '.join(EXPERIMENTS)}"
        raise FullyconvError("SEG-R001", f"there is no experiment {name}{hint}")
    if not minutes > 0:
        raise FullyconvError("SEG-R002", f"--minutes must be above zero, got {minutes:g}")
    folder = _folder(name, out, resume)
    settings = _saved(name, folder, given) if resume or name is None else _settings(name, asked, given)
    return _carried_out(settings, folder)


def _settings(name: str, asked: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """The settings of a new experiment.

    Args:
        name: Of the experiment.
        asked: All options.
        given: Those that differ from the default; what the experiment would not heed is refused.
    """
    experiment = EXPERIMENTS[name]
    idle = [option for option in given if option not in ("minutes", *experiment.takes)]
    if idle:
        raise FullyconvError("SEG-R002", f"{name} does not heed --{' and --'.join(idle)}; leave that out")
    if "also" in given and "data" not in given:
        raise FullyconvError("SEG-R002", "--also names other masks of the images of --data; give --data too")
    values = {**asked, "pretrained": given.get("pretrained", experiment.start)}
    if "data" not in given:
        found, others, camera = known_data(experiment.data)
        values |= {"data": found, "also": others, "camera": asked["camera"] or camera}
    return Settings(name=name, **values)


def _folder(name: str | None, out: Path | None, resume: bool) -> Path:
    """Where the experiment stands or shall stand, below its name if nothing is said; what exists is refused unless
    resumed."""
    base = Path("reproductions") / str(name)
    numbered = [base, *(base.with_name(f"{name}-{number}") for number in range(2, 1000))]
    if out is None and not resume:
        return next(folder for folder in numbered if not folder.exists())
    if out is None:
        begun = [folder for folder in numbered if (folder / "settings.json").is_file()]
        return max(begun, key=lambda folder: (folder / "settings.json").stat().st_mtime, default=base)
    if out.is_file() or (not resume and out.exists() and any(out.iterdir())):
        go_on = "go on with it by --resume, or " if (out / "settings.json").is_file() else ""
        raise FullyconvError("SEG-U008", f"{out} exists already; {go_on}name another folder with --out")
    return out


def _saved(name: str | None, folder: Path, given: Mapping[str, Any]) -> Settings:
    """The settings of the experiment that goes on; it is refused if others are given."""
    file = folder / "settings.json"
    if not file.is_file():
        raise FullyconvError(
            "SEG-R003", f"{folder} holds no settings.json, so there is nothing to resume; leave --resume out to begin"
        )
    values = json.loads(file.read_text(encoding="utf-8"))
    settings = Settings(**{**values, "also": tuple(values["also"])})
    if name not in (None, settings.name):
        raise FullyconvError(
            "SEG-R003", f"{folder} holds the experiment {settings.name}, not {name}; name another folder with --out"
        )
    for option, value in given.items():
        if getattr(settings, option) != value:
            raise FullyconvError(
                "SEG-R003",
                f"{folder} was begun with --{option} {_words(getattr(settings, option))}, not {_words(value)}; leave "
                f"--{option} out, or begin another experiment with another --out",
            )
    return settings


def _words(value: Any) -> str:
    """The value of an option as it is typed."""
    if isinstance(value, tuple):
        return " ".join(value) or "left out"
    return "left out" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _carried_out(settings: Settings, folder: Path) -> Reproduction:
    """Runs the experiment and keeps what it found; one that has measured a part can go on, any other leaves nothing."""
    module, function = EXPERIMENTS[settings.name].target.split(":")
    try:
        write_json(folder / "settings.json", asdict(settings))
        run: Callable[[Workbench], Findings] = getattr(import_module(f"fullyconv.experiments.{module}"), function)
        bench = Workbench(settings, folder)
        with bench.progress():
            result = Reproduction(settings, _with_conditions(run(bench), bench), folder)
        _write(result)
    except KeyboardInterrupt:
        if _drop_if_empty(folder):
            raise KeyboardInterrupt("stopped before anything was measured; nothing was saved") from None
        again = shlex.join(["fullyconv", "reproduce", settings.name, "--out", str(folder), "--resume"])
        done = len(list((folder / "parts").glob("[!.]*.json")))
        parts = "1 part" if done == 1 else f"{done} parts"
        raise KeyboardInterrupt(f"stopped with {parts} measured and saved; go on with: {again}") from None
    except BaseException:
        _drop_if_empty(folder)
        raise
    return result


def _with_conditions(found: Findings, bench: Workbench) -> Findings:
    """The findings, with what is the same for every experiment among their conditions."""
    common = {
        "data": bench.data,
        **({"also": bench.settings.also} if bench.settings.also else {}),
        **bench.machine(),
        "minutes": round(bench.seconds() / 60, 2),
        "seed": bench.settings.seed,
    }
    return replace(found, conditions={**found.conditions, **common})


def _drop_if_empty(folder: Path) -> bool:
    """Removes the folder of an experiment that has no part to show; trainings begin after the part that plans them."""
    if any(folder.glob("parts/[!.]*.json")):
        return False
    shutil.rmtree(folder, ignore_errors=True)  # it may not even have been made
    return True


def _write(result: Reproduction) -> None:
    """Writes plot, table and, last, findings.json, whose presence says that all is there."""
    values = result.to_json()
    charts.save(charts.comparison(values["rows"], values["curves"]), result.out / FILES["plot"])
    page = markdown(result.findings, f"{values['experiment']}: {values['title']}", Path(FILES["plot"]))
    (result.out / FILES["table"]).write_text(page, encoding="utf-8")
    write_json(result.out / FILES["json"], values)


def _terminal(result: Reproduction) -> str:
    """The table, the conclusion and the conditions, for people."""
    from rich.console import Console
    from rich.table import Table

    headings, lines = table(result.findings.rows)
    experiment = EXPERIMENTS[result.settings.name]
    width = min(100, shutil.get_terminal_size().columns)
    grids = []
    for places in columns(headings, lines, width):
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for place in places:
            longest = max(len(cells[place]) for cells in lines)
            grid.add_column(headings[place], justify="left" if place < 2 else "right", min_width=longest)
        for cells in lines:
            grid.add_row(*(cells[place] for place in places))
        grids.append(grid)
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(f"{experiment.title} ({experiment.source})\n", markup=False)
        for number, grid in enumerate(grids):
            console.print(*([""] if number else []), grid, sep="\n")
        console.print(f"\n{result.findings.conclusion}\n", markup=False)
        facts = {**result.findings.conditions, "kept in": str(result.out)}
        wide = max(map(len, facts)) + 2
        for name, value in facts.items():
            console.print(f"{name + ':':<{wide}}{shown(value)}", markup=False, soft_wrap=True)
    return captured.get().rstrip()
