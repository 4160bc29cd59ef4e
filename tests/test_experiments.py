import json
import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fullyconv import cli
from fullyconv.errors import FullyconvError
from fullyconv.experiments import EXPERIMENTS, Experiment, nets
from fullyconv.experiments.findings import Findings, Row, compare, markdown, mean_row, number, table
from fullyconv.experiments.reproduction import Listing, Reproduction, reproduce
from fullyconv.experiments.timing import interleaved
from fullyconv.experiments.workbench import Settings, Workbench, known_data

KEYS = {"experiment", "title", "source", "rows", "conclusion", "conditions", "curves", "out", "files"}


def little(bench: Workbench) -> Findings:
    """An experiment of two parts, for the frame."""
    values = [bench.part("a", lambda: {"mean": 41.0}), bench.part("b", lambda: {"mean": 42.0})]
    rows = [mean_row("net", "mean IU", [value["mean"] for value in values], unit="%", paper=59.4)]
    return Findings(tuple(rows), "The net learns.", {"nets": ["net"]})


@pytest.fixture
def with_little(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[..., Any]], None]:
    """Makes a function of this file the experiment `little`, in an empty working folder without known data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULLYCONV_DATA", raising=False)

    def use(run: Callable[[Workbench], Findings]) -> None:
        monkeypatch.setitem(EXPERIMENTS, "little", Experiment("Is it little?", "section 0", "nets:little"))
        monkeypatch.setattr(nets, "little", run, raising=False)

    return use


# The registry and the door -------------------------------------------------------------------------------------------


def test_every_experiment_is_there() -> None:
    for experiment in EXPERIMENTS.values():
        module, function = experiment.target.split(":")
        assert callable(getattr(import_module(f"fullyconv.experiments.{module}"), function))


def test_without_a_name_the_experiments_are_listed() -> None:
    listing = reproduce()
    assert isinstance(listing, Listing)
    assert [entry["name"] for entry in listing.to_json()["experiments"]] == list(EXPERIMENTS)
    assert [line.split()[0] for line in str(listing).splitlines()[: len(EXPERIMENTS)]] == list(EXPERIMENTS)


def test_an_unknown_experiment_is_refused_with_the_nearest() -> None:
    with pytest.raises(FullyconvError, match=r"SEG-R001 .*did you mean table1\?"):
        reproduce("tabel1")


def test_no_time_is_refused() -> None:
    with pytest.raises(FullyconvError, match=r"SEG-R002 .*above zero, got 0"):
        reproduce("table1", minutes=0)


def test_findings_are_printed_and_kept(
    with_little: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_little(little)
    assert cli.main(["reproduce", "little", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values) == KEYS
    assert values["rows"] == [
        {
            "label": "net",
            "measure": "mean IU",
            "ours": 41.5,
            "unit": "%",
            "paper": 59.4,
            "released": None,
            "repetitions": [41.0, 42.0],
            "spread": pytest.approx(math.sqrt(0.5)),
        }
    ]
    assert {"nets", "data", "machine", "minutes", "seed"} <= set(values["conditions"])
    out = Path("reproductions/little")
    assert json.loads((out / "findings.json").read_text()) == values
    assert all(Path(file).stat().st_size for file in values["files"].values())
    page = (out / "findings.md").read_text()
    assert "The net learns." in page
    assert "| net | ours | 41.5 ± 0.7 |" in page
    assert "|  | paper | 59.4 |" in page


def test_findings_on_the_terminal_show_the_paper_below_ours(with_little: Callable[..., None]) -> None:
    with_little(little)
    lines = [line.split() for line in str(reproduce("little")).splitlines()]
    assert lines.index(["paper", "59.4"]) == lines.index(["net", "ours", "41.5", "±", "0.7"]) + 1


def test_a_second_run_gets_a_folder_of_its_own(with_little: Callable[..., None]) -> None:
    with_little(little)
    folders = [result.out for result in (reproduce("little"), reproduce("little")) if isinstance(result, Reproduction)]
    assert folders == [Path("reproductions/little"), Path("reproductions/little-2")]


def test_a_folder_that_exists_is_refused(with_little: Callable[..., None], tmp_path: Path) -> None:
    with_little(little)
    reproduce("little", out=tmp_path / "a")
    with pytest.raises(FullyconvError, match=r"SEG-U008 .*--resume, or name another folder with --out"):
        reproduce("little", out=tmp_path / "a")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(FullyconvError, match=r"SEG-U008 .*exists already; name another"):
        reproduce("little", out=tmp_path / "other")


def test_only_a_begun_experiment_can_go_on(with_little: Callable[..., None], tmp_path: Path) -> None:
    with_little(little)
    with pytest.raises(FullyconvError, match=r"SEG-R003 .*nothing to resume"):
        reproduce("little", out=tmp_path / "none", resume=True)
    reproduce("little", out=tmp_path / "a")
    with pytest.raises(FullyconvError, match=r"SEG-R003 .*holds the experiment little, not table1"):
        reproduce("table1", out=tmp_path / "a", resume=True)


def test_an_interrupted_experiment_goes_on_with_what_it_has(
    with_little: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def interrupted(bench: Workbench) -> Findings:
        bench.part("first", lambda: asked.append("first"))
        if len(asked) == 1:
            asked.append("stop")
            raise KeyboardInterrupt
        return little(bench)

    with_little(interrupted)
    assert cli.main(["reproduce", "little", "--out", str(tmp_path / "a"), "--minutes", "3"]) == 130
    told = capsys.readouterr().err
    assert "1 parts measured and saved; go on with: fullyconv reproduce little --out" in told
    assert not (tmp_path / "a" / "findings.json").exists()
    words = told.partition("fullyconv ")[2].split()
    assert cli.main(words) == 0
    assert asked == ["first", "stop"]
    assert Settings(**json.loads((tmp_path / "a" / "settings.json").read_text())).minutes == 3


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_experiment_that_has_measured_nothing_leaves_nothing(
    stop: type[BaseException], with_little: Callable[..., None], tmp_path: Path
) -> None:
    def fails(bench: Workbench) -> Findings:
        raise stop

    with_little(fails)
    with pytest.raises(stop):
        reproduce("little", out=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_known_data_are_found_best_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "camvid").mkdir()
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    assert known_data(("VOCdevkit", "camvid")) == str(tmp_path / "camvid")
    assert known_data(("VOCdevkit",)) is None
    monkeypatch.delenv("FULLYCONV_DATA")
    assert known_data(("camvid",)) is None


# Numbers and what they say -------------------------------------------------------------------------------------------


def test_a_difference_beyond_the_spread_is_told_as_one() -> None:
    rows = [mean_row("8s", "mean IU", [60.0, 61.0], unit="%"), mean_row("32s", "mean IU", [40.0, 41.0], unit="%")]
    found = compare(rows, "8s", "32s", "mean IU")
    assert found.beyond
    assert str(found).startswith("8s is 20.0 points of mean IU above 32s, more than the spread explains")
    assert "below 8s" in str(compare(rows, "32s", "8s", "mean IU"))


def test_a_difference_within_the_spread_is_told_as_none() -> None:
    rows = [mean_row("8s", "mean IU", [40.0, 61.0], unit="%"), mean_row("32s", "mean IU", [41.0, 50.0], unit="%")]
    assert "there is no difference beyond the spread: +5.0 points" in str(compare(rows, "8s", "32s", "mean IU"))


def test_nothing_is_concluded_from_single_runs() -> None:
    rows = [mean_row("8s", "mean IU", [90.0], unit="%"), mean_row("32s", "mean IU", [10.0], unit="%")]
    found = compare(rows, "8s", "32s", "mean IU")
    assert not found.beyond
    assert "nothing was repeated" in str(found)


def test_the_margin_is_that_of_students_test() -> None:
    # By hand: variances 0.5 and 2, pooled 1.25 with 2 degrees of freedom; 4.303 * sqrt(1.25 * (1/2 + 1/2)).
    rows = [mean_row("a", "loss", [1.0, 2.0]), mean_row("b", "loss", [1.0, 3.0])]
    assert compare(rows, "a", "b", "loss").margin == pytest.approx(4.303 * math.sqrt(1.25), rel=1e-6)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(59.4, "%", "59.4"), (62.0, "%", "62.0"), (134.36, "M", "134"), (5.449, "", "5.45"), (3977.2, "ms", "3,977"),
     (404, "px", "404"), (0.0286, "", "0.0286"), (math.nan, "%", "-"), (None, "%", "")],
)  # fmt: skip
def test_numbers_have_the_digits_that_count(value: float | None, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_tables_hold_a_line_per_source_that_says_something() -> None:
    rows = [
        Row("a", "time", 2.0, "ms", paper=1.0),
        Row("a", "mean IU", 50.0, "%"),
        Row("b", "mean IU", 51.0, "%", paper=60.0, released=63.6),
    ]
    headings, lines = table(rows)
    assert headings == ["", "", "time, ms", "mean IU, %"]
    assert lines == [
        ["a", "ours", "2", "50.0"],
        ["", "paper", "1", ""],
        ["b", "ours", "", "51.0"],
        ["", "paper", "", "60.0"],
        ["", "released", "", "63.6"],
    ]
    assert markdown(Findings(tuple(rows), "so."), "t").count("\n| ") == len(lines) + 2  # headings and rule


def test_works_take_turns() -> None:
    done: list[str] = []
    taken = interleaved({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, seconds=0, rounds=9, least=2)
    assert done == ["a", "b"] * 3
    assert [len(times) for times in taken.values()] == [2, 2]


# Table 1 -------------------------------------------------------------------------------------------------------------


def bench(folder: Path, name: str, **settings: Any) -> Workbench:
    asked = Settings(name, None, minutes=0.001, trunk="resnet10t", pretrained="none", seed=0)
    return Workbench(replace(asked, **settings), folder)


def test_table1_counts_as_the_paper_does(tmp_path: Path) -> None:
    paper = {name: nets.PAPER[name] for name in ("fcn32s-alexnet", "fcn32s-googlenet")}
    found = nets.measure_nets(bench(tmp_path, "table1"), paper, size=64, rounds=1)
    numbers = {(row.label, row.measure): row for row in found.rows}
    assert len(numbers) == 10
    agreeing = [key for key, row in numbers.items() if key[1] != "forward time" and round(row.ours) == row.paper]
    assert len(agreeing) == 7
    assert numbers["fcn32s-googlenet", "receptive field"].ours == 715
    assert "GoogLeNet's is 907 px with the last average pool" in found.conditions["receptive field"]
    assert "7 of 8 numbers" in found.conclusion
    assert "receptive field 715 for 907" in found.conclusion


def test_table1_tells_when_the_nets_rank_otherwise() -> None:
    def times(one: float, other: float) -> str:
        return nets.conclusion(
            [Row("a", "forward time", one, "ms", paper=50), Row("b", "forward time", other, "ms", paper=210)]
        )

    assert "a, b, as in the paper" in times(1, 2)
    assert "b, a, which in the paper are a, b" in times(2, 1)
