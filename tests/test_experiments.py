import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fullyconv import cli
from fullyconv.datasets import Dataset, Pair, digits
from fullyconv.errors import FullyconvError
from fullyconv.experiments import (
    EXPERIMENTS,
    Experiment,
    Place,
    depth,
    heads,
    learning,
    nets,
    stages,
    trials,
    workbench,
)
from fullyconv.experiments.findings import (
    Findings,
    Row,
    Side,
    columns,
    compare,
    conclude,
    markdown,
    mean_row,
    number,
    table,
)
from fullyconv.experiments.learning import share_of
from fullyconv.experiments.reproduction import Listing, Reproduction, reproduce
from fullyconv.experiments.runs import Trial
from fullyconv.experiments.scenes import depth_of, known_data, parity_of, plain, write_digits
from fullyconv.experiments.schedule import Alike, Cost, Schedule, schedule, taken
from fullyconv.experiments.trials import Outcome, carry_out, loss_curves, scale, score_rows
from fullyconv.experiments.warmup import Crops
from fullyconv.experiments.workbench import Settings, Workbench
from fullyconv.hha import NYUD_CAMERA, Camera, hha
from fullyconv.labels import LabelSet
from fullyconv.timing import interleaved

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
            "one_class": False,
        }
    ]
    assert {"nets", "data", "machine", "load", "minutes", "seed"} <= set(values["conditions"])
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
    assert "1 part measured and saved; go on with: fullyconv reproduce little --out" in told
    assert not (tmp_path / "a" / "findings.json").exists()
    words = told.partition("fullyconv ")[2].split()
    assert cli.main(words) == 0
    assert asked == ["first", "stop"]
    assert json.loads((tmp_path / "a" / "settings.json").read_text())["minutes"] == 3


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


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("table1", {"trunk": "resnet18", "data": "camvid"}, "table1 does not heed --data and --trunk"),
        ("dense-vs-patches", {"pretrained": "none"}, "does not heed --pretrained"),
        ("upper-bounds", {"trunk": "resnet18"}, "does not heed --trunk"),
        ("table2", {"also": ["other"], "data": "camvid"}, "does not heed --also"),
        ("table2", {"camera": "1,1,0,0,1"}, "does not heed --camera"),
        ("two-heads", {"also": ["other"]}, "--also names other masks of the images of --data"),
        ("rgbd", {"pretrained": "crops"}, "a classifier of crops has seen no depth"),
    ],
)
def test_an_option_that_does_nothing_is_refused(
    name: str, options: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenes: Dataset
) -> None:
    monkeypatch.delenv("FULLYCONV_DATA", raising=False)
    monkeypatch.setattr(Workbench, "whole", scenes)
    with pytest.raises(FullyconvError, match=f"SEG-R002 .*{told}"):
        reproduce(name, out=tmp_path / "a", **options)
    assert not list(tmp_path.iterdir())


def test_none_at_the_command_line_is_a_start(
    with_little: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with_little(little)
    for words, start in ((["--pretrained", "none"], "none"), ([], "crops")):
        assert cli.main(["reproduce", "little", "--json", *words]) == 0
        out = Path(json.loads(capsys.readouterr().out)["out"])
        assert json.loads((out / "settings.json").read_text())["pretrained"] == start


def test_options_without_an_experiment_are_refused(tmp_path: Path) -> None:
    for options in ({"resume": True}, {"out": tmp_path / "a"}, {"seed": 1}):
        with pytest.raises(FullyconvError, match=r"SEG-R001 .*no experiment is named"):
            reproduce(**options)


def test_the_folder_knows_the_experiment_that_goes_on(with_little: Callable[..., None], tmp_path: Path) -> None:
    with_little(little)
    first = reproduce("little", out=tmp_path / "a", seed=3)
    again = reproduce(out=tmp_path / "a", resume=True)
    assert isinstance(first, Reproduction)
    assert isinstance(again, Reproduction)
    assert again.settings == first.settings
    assert again.findings.rows == first.findings.rows


def test_other_settings_than_the_stored_ones_are_refused(with_little: Callable[..., None], tmp_path: Path) -> None:
    with_little(little)
    reproduce("little", out=tmp_path / "a", seed=3, minutes=5)
    reproduce("little", out=tmp_path / "a", seed=3, resume=True)
    with pytest.raises(FullyconvError, match=r"SEG-R003 .*begun with --minutes 5, not 20; leave --minutes out"):
        reproduce("little", out=tmp_path / "a", minutes=20, resume=True)
    with pytest.raises(FullyconvError, match=r"SEG-R003 .*begun with --data left out, not camvid"):
        reproduce("little", out=tmp_path / "a", data="camvid", resume=True)


def test_a_guest_that_is_missing_leaves_nothing(
    with_little: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_little(little)
    monkeypatch.setitem(sys.modules, "fullyconv.experiments.nets", None)
    with pytest.raises(ModuleNotFoundError):
        reproduce("little", out=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told_as_the_system_does(
    with_little: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    with_little(little)
    monkeypatch.setattr("fullyconv.experiments.reproduction.write_json", refused)
    with pytest.raises(PermissionError):
        reproduce("little", out=tmp_path / "a")


def test_an_interrupted_timing_leaves_nothing(with_little: Callable[..., None], tmp_path: Path) -> None:
    def timing(bench: Workbench) -> Findings:
        (bench.folder / "runs" / "timing-net").mkdir(parents=True)
        (bench.folder / "runs" / "timing-net" / "plan.json").touch()
        raise KeyboardInterrupt

    with_little(timing)
    with pytest.raises(KeyboardInterrupt, match="nothing was saved"):
        reproduce("little", out=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_machine_and_load_are_those_of_all_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, machine, load in (("a", "slow", 4.0), ("b", "fast", 1.5), ("c", "fast", 2.0)):
        monkeypatch.setattr(workbench, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(workbench, "load", lambda load=load: load)
        bench(tmp_path, "table1").part(part, lambda: 1)
    assert bench(tmp_path, "table1").machine() == {"machine": "slow; fast", "load": "1.5 to 4.0"}


def test_known_data_are_found_best_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "camvid").mkdir()
    places = (Place("VOCdevkit"), Place("camvid", "camvid:%s", ("edges=%s/edges",), "1,1,0,0,0.001"))
    monkeypatch.setenv("FULLYCONV_DATA", str(tmp_path))
    assert known_data(places) == (f"camvid:{tmp_path}/camvid", (f"edges={tmp_path}/camvid/edges",), "1,1,0,0,0.001")
    assert known_data(places[:1]) == (None, (), None)
    monkeypatch.delenv("FULLYCONV_DATA")
    assert known_data(places) == (None, (), None)


# Numbers and what they say -------------------------------------------------------------------------------------------


def points(label: str, *values: float) -> Row:
    return mean_row(label, "mean IU", values, unit="%")


def test_a_difference_beyond_the_spread_is_told_as_one() -> None:
    found = compare([points("8s", 60, 61), points("32s", 40, 41)], "8s", "32s", "mean IU")
    assert found.seen == "above"
    assert str(found) == "8s against 32s: +20.0 points of mean IU, beyond the spread (± 3.0)"


def test_a_difference_within_the_spread_is_told_as_none() -> None:
    found = compare([points("8s", 40, 61), points("32s", 41, 50)], "8s", "32s", "mean IU")
    assert found.seen == "level"
    assert str(found).startswith("8s against 32s: +5.0 points of mean IU, no difference beyond the spread (±")


def test_nothing_is_concluded_from_single_runs() -> None:
    found = compare([points("8s", 90), points("32s", 10)], "8s", "32s", "mean IU", paper="above")
    assert found.seen is None
    assert str(found) == "8s against 32s: +80.0 points of mean IU"
    assert "once each, so that chance may explain any difference: 8s against" in conclude("After 5 steps", [found])


@pytest.mark.parametrize(
    ("eight", "paper", "told"),
    [
        (60, "above", "+20.0 points of mean IU, beyond the spread (± 0.0), as in the paper"),
        (60, "level", "beyond the spread (± 0.0), where the paper sees none"),
        (40, "above", "no difference beyond the spread (± 0.0), where the paper has it above"),
        (40, "level", "no difference beyond the spread (± 0.0), as in the paper"),
        (20, "above", "-20.0 points of mean IU, beyond the spread (± 0.0), against the paper"),
        (20, None, "-20.0 points of mean IU, beyond the spread (± 0.0)"),
    ],
)
def test_a_difference_is_set_beside_the_papers(eight: float, paper: Side | None, told: str) -> None:
    rows = [points("8s", eight, eight), points("32s", 40, 40)]
    assert str(compare(rows, "8s", "32s", "mean IU", paper=paper)).endswith(told)


def test_nothing_is_concluded_from_nets_that_name_one_class() -> None:
    one, other, learnt = points("8s", 5.7, 5.7), points("32s", 5.7, 5.7), points("32s", 5.1, 5.2)
    one, other = (replace(row, one_class=True) for row in (one, other))
    found = compare([one, other], "8s", "32s", "mean IU", paper="level")
    assert found.seen is None
    told = "8s / 32s each name one class only, so that nothing may be concluded from their mean IU"
    assert conclude("After 5 steps", [found, found]) == f"After 5 steps: {told}."
    known = compare([one, learnt], "8s", "32s", "mean IU")
    assert known.seen == "above"
    assert conclude("After 5 steps", [found, known]) == f"After 5 steps: {known}; {told}."


def test_a_conclusion_tells_the_scale_first() -> None:
    rows = [points("8s", 60, 60), points("32s", 40, 40)]
    sentence = conclude("After 5 steps", [compare(rows, *pair, "mean IU") for pair in (("8s", "32s"), ("32s", "8s"))])
    assert sentence.startswith("After 5 steps: 8s against 32s: +20.0 points")
    assert "; 32s against 8s: -20.0 points" in sentence
    assert sentence.endswith(".")


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


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_cell_of_a_table_is_cut(
    width: int, with_little: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = ["semantic pixel acc.", "semantic mean IU", "geometric mean IU", "time per iteration", "pixel acc."]
    rows = [
        mean_row(label, measure, [4123.4, 5876.9], unit="ms") for label in ("1/4 of it", "b") for measure in measures
    ]
    with_little(lambda bench: bench.part("a", int) or Findings(tuple(rows), "so."))
    monkeypatch.setenv("COLUMNS", str(width))
    shown = str(reproduce("little")).partition("so.")[0].splitlines()
    assert sum(line.count("5,000 ± 1,240") for line in shown) == len(rows)
    assert max(map(len, shown)) <= width


def test_columns_that_fit_stay_together() -> None:
    lines = [["net", "ours", "1.0", "22.0 ± 1.0"]]
    assert columns(["", "", "mean IU, %", "pixel acc., %"], lines, 80) == [[0, 1, 2, 3]]
    assert columns(["", "", "mean IU, %", "pixel acc., %"], lines, 29) == [[0, 1, 2, 3]]  # 3 + 4 + 4 + 10 + 4 * 2
    assert columns(["", "", "mean IU, %", "pixel acc., %"], lines, 28) == [[0, 1, 2], [0, 1, 3]]


def test_works_take_turns() -> None:
    done: list[str] = []
    taken = interleaved({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, seconds=0, rounds=9, least=2)
    assert done == ["a", "b"] * 3
    assert [len(times) for times in taken.values()] == [2, 2]


# The time ------------------------------------------------------------------------------------------------------------

COSTS = {"cheap": Cost(step=0.1, image=0.02, beside=2.0), "dear": Cost(step=0.4, image=0.05, beside=3.0, nets=3)}


@pytest.mark.parametrize("alike", ["steps", "seconds"])
@pytest.mark.parametrize("seconds", [30, 100, 1000, 5000])
def test_a_schedule_fits_into_its_time(alike: Alike, seconds: float) -> None:
    assert 0.8 * seconds < taken(COSTS, schedule(COSTS, seconds, val=10**6, alike=alike)) <= seconds


def test_equal_steps_are_equal_and_equal_seconds_nearly() -> None:
    assert len(set(schedule(COSTS, 1000, val=20, alike="steps").steps.values())) == 1
    plan = schedule(COSTS, 1000, val=20, alike="seconds")
    seconds = [taken({label: cost}, plan) for label, cost in COSTS.items()]
    assert seconds[0] == pytest.approx(seconds[1], rel=0.01)


@pytest.mark.parametrize(("seconds", "seeds"), [(5000, 3), (1000, 2), (20, 1), (1, 1)])
def test_there_are_as_many_seeds_as_fit(seconds: float, seeds: int) -> None:
    assert schedule(COSTS, seconds, val=20, alike="steps").seeds == seeds


def test_no_net_gets_less_than_the_least_steps() -> None:
    plan = schedule(COSTS, 0, val=100, alike="seconds")
    assert plan == Schedule(seeds=1, val=20, steps={"cheap": 4, "dear": 12})


# Data ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_digits(tmp_path_factory.mktemp("digits"), seed=0, train=4, val=2, size=(64, 96))


def test_digits_have_depth_and_a_second_head(scenes: Dataset) -> None:
    assert {split: len(pairs) for split, pairs in scenes.splits.items()} == {"train": 4, "val": 2}
    assert list(scenes.heads) == ["digit", "parity"]
    assert scenes.labels.names == digits.LABELS.names
    assert scenes.also[0].labels.names == ("background", "even", "odd")
    assert all(picture.is_file() for pair in scenes.pairs("train") for picture in pair.pictures)
    assert len(scenes.pairs("train")[0].pictures) == 2


def test_plain_data_are_images_and_labels(scenes: Dataset) -> None:
    assert plain(scenes).also == ()
    assert all(pair.more == () for pair in plain(scenes).pairs("val"))
    assert list(plain(scenes, heads=True).heads) == ["digit", "parity"]


def test_parity_is_that_of_the_digit() -> None:
    values = np.arange(11, dtype=np.uint8)  # background, then the classes of zero to nine
    assert parity_of(values).tolist() == [0, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2]


def test_digits_rise_above_the_ground() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[:, ::2] = 3
    depth = depth_of(mask, np.random.default_rng(0)).astype(float)
    assert depth[:, ::2].mean() - depth[:, 1::2].mean() == pytest.approx(40, abs=1)


def test_crops_show_their_class_in_the_middle(scenes: Dataset) -> None:
    crops = Crops(plain(scenes), "train", seed=0)
    assert crops.side == 64
    picture, value = crops.draw(64)
    assert picture.shape == (64, 3, 64, 64)
    assert len(set(value.tolist())) > 3
    brightness = picture[:, :, 30:34, 30:34].mean((1, 2, 3))
    assert brightness[value > 0].mean() > 1.5 * brightness[value == 0].mean()


def test_crops_of_deep_images_stay_below_one(tmp_path: Path) -> None:
    deep = np.full((64, 64), 65535, np.uint16)
    pairs = []
    for name in "ab":
        image, mask = tmp_path / f"{name}.png", tmp_path / f"{name}-mask.png"
        Image.fromarray(deep).save(image)
        Image.fromarray((deep > 0).astype(np.uint8)).save(mask)
        pairs.append(Pair(name, image, mask))
    dataset = Dataset("folder", tmp_path, LabelSet(("ground", "square")), {"train": tuple(pairs)})
    picture, _ = Crops(dataset, "train", seed=0, bands=1).draw(8)
    assert picture.max() == 1
    assert picture.min() == pytest.approx(128 / 255)


# Trials --------------------------------------------------------------------------------------------------------------


def test_trials_are_timed_and_taken_up(scenes: Dataset, tmp_path: Path) -> None:
    mine = bench(tmp_path, "table2", minutes=0.1)
    trial = Trial("FCN-16s", "fcn16s-test_resnet", plain(scenes), options={"batch": 2, "staged": True})
    outcomes = carry_out(mine, [trial], alike="steps")["FCN-16s"]
    seeds = range(mine.part("schedule", lambda: None)["seeds"])
    assert len(outcomes) == len(seeds)
    runs = [tmp_path / "runs" / f"fcn-16s-seed{seed}" for seed in seeds]
    assert sorted(folder for folder in (tmp_path / "runs").iterdir() if folder.is_dir()) == runs
    stages = [json.loads((runs[0] / stage / "plan.json").read_text())["steps"] for stage in ("32s", "16s")]
    assert sum(stages) == outcomes[0].steps
    assert not list(runs[0].glob("**/checkpoints"))
    (tmp_path / "parts" / f"fcn-16s-seed{seeds[-1]}.json").unlink()
    shutil.rmtree(tmp_path / "runs" / f"fcn-16s-seed{seeds[-1]}")
    again = carry_out(bench(tmp_path, "table2"), [trial], alike="steps")["FCN-16s"]
    assert [one.scores for one in again] == [one.scores for one in outcomes]


def test_timing_ends_with_its_share_of_the_time(
    scenes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cost(bench: Workbench, trial: Trial) -> Cost:
        asked.append(trial.label)
        return Cost(step=2.0, image=0.1, beside=9.0, nets=trial.nets)

    monkeypatch.setattr(trials, "_cost", cost)
    fine = Trial("fcn8s", "fcn8s-test_resnet", scenes, options={"staged": True})
    some = [Trial("fcn32s", "fcn32s-test_resnet", scenes), fine]
    assert trials._costs(bench(tmp_path, "table2", minutes=60), some)["fcn32s"] == Cost(2.0, 0.1, 3.0, nets=1)
    assert asked == ["fcn8s", "fcn32s"]
    monkeypatch.setattr(trials, "TIMING_SHARE", 0)
    costs = trials._costs(bench(tmp_path, "table2", minutes=60), some)
    assert asked[2:] == ["fcn8s"]
    assert costs == {"fcn32s": Cost(2.0, 0.1, 3.0, nets=1), "fcn8s": Cost(2.0, 0.1, 9.0, nets=3)}


def outcome(mean_iou: float, *, steps: int = 100, seconds: float = 1.0) -> Outcome:
    scores = dict.fromkeys(("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"), mean_iou)
    return Outcome({"labels": scores}, 2, {"labels": 11}, {}, steps, seconds, ((1, 0.0, 2.0), (2, 0.5, 1.0)))


def test_loss_curves_stand_over_iterations_and_over_time() -> None:
    curves = loss_curves({"a": [outcome(0.5), outcome(0.6)]})
    assert [(curve.across, curve.x, curve.y) for curve in curves[::2]] == [
        ("iterations", (1, 2), (2.0, 1.0)),
        ("seconds", (0.0, 0.5), (2.0, 1.0)),
    ]
    assert len(curves) == 4


def test_the_scale_is_told_in_steps_and_time(tmp_path: Path) -> None:
    mine = bench(tmp_path, "table2")
    assert scale(mine, {"a": [outcome(0.5)]}) == "After 100 steps, about 1.7 minutes, of test_resnet"
    both = {"a": [outcome(0.5, steps=10)], "b": [outcome(0.5, steps=20)]}
    assert scale(mine, both) == "After 10 to 20 steps, about 15 seconds, of test_resnet"


def test_nets_that_have_learnt_little_are_told_as_such(tmp_path: Path) -> None:
    mine = bench(tmp_path, "table2")
    # Of 11 classes, one named everywhere gives a mean accuracy of 9 %.
    assert "little more than the commonest class" in scale(mine, {"a": [outcome(0.09), outcome(0.17)]})
    assert "commonest" not in scale(mine, {"a": [outcome(0.09), outcome(0.19)]})


@pytest.mark.parametrize(
    ("classes", "mean_accuracy", "learnt"), [(4, 0.25, 0), (4, 0.625, 0.5), (4, 1, 1), (21, 1 / 13, 0.03), (1, 1, 0)]
)
def test_learning_begins_beyond_one_class(classes: int, mean_accuracy: float, learnt: float) -> None:
    one = replace(outcome(mean_accuracy), classes={"labels": classes})
    assert one.learnt("labels") == pytest.approx(learnt, abs=0.001)


def test_scores_of_nets_that_name_one_class_are_marked() -> None:
    def marked(*mean_accuracies: float) -> bool:
        rows = score_rows({"a": [outcome(value) for value in mean_accuracies]}, {}, scores=("mean_iou",))
        return rows[0].one_class

    assert marked(1 / 11, 0.095)
    assert not marked(1 / 11, 0.2)


def test_the_share_of_a_net_that_has_learnt_nothing_is_none() -> None:
    part, whole = points("part", 20), points("whole", 50)
    assert share_of([part, whole], "part", "whole") == 40
    assert share_of([replace(part, one_class=True), whole], "part", "whole") is None
    assert share_of([part, replace(whole, one_class=True)], "part", "whole") is None


# The experiments -----------------------------------------------------------------------------------------------------

SCORES = ["pixel acc.", "mean acc.", "mean IU", "f.w. IU"]


@pytest.mark.parametrize(
    ("name", "labels", "measures"),
    [
        ("table2", ["FCN-32s-fixed", "FCN-32s", "FCN-16s", "FCN-8s", "FCN-8s at once"], SCORES),
        (
            "loss-sampling",
            ["all pixels", "1/2 of the pixels", "1/4 of the pixels"],
            ["mean IU", "final loss", "time per iteration"],
        ),
        ("augmentation", ["none", "mirror and shift", "scale, crop and light"], SCORES),
        ("fine-tuning", ["output layer", "all layers", "from scratch"], SCORES),
        (
            "fusion",
            ["stride 32", "stride 16 only", "stride 8 only", "strides 16 + 32", "strides 8 + 16 + 32"],
            SCORES,
        ),
        (
            "two-heads",
            ["digit alone", "two heads", "parity alone"],
            ["digit pixel acc.", "digit mean IU", "parity pixel acc.", "parity mean IU", "time per iteration"],
        ),
        ("rgbd", ["RGB", "depth", "RGB and depth, early", "RGB and depth, late"], SCORES),
    ],
)
def test_an_experiment_on_a_few_digits(
    name: str, labels: list[str], measures: list[str], scenes: Dataset, tmp_path: Path
) -> None:
    frozen = name in ("table2", "fine-tuning")
    mine = bench(tmp_path, name, pretrained="crops" if frozen else "none")
    mine.whole = scenes
    module, function = EXPERIMENTS[name].target.split(":")
    found = getattr(import_module(f"fullyconv.experiments.{module}"), function)(mine)
    assert list(dict.fromkeys(row.label for row in found.rows)) == labels
    assert list(dict.fromkeys(row.measure for row in found.rows)) == measures
    assert all(math.isfinite(row.ours) for row in found.rows)
    assert found.conclusion.startswith("After 4")
    told = {"nets", "steps", "start", "images", "seeds", "optimizer", "learning rate", "batch", "samples"}
    assert told | {"classes scored"} <= set(found.conditions)
    assert "each name one class only, so that nothing may be concluded from their " in found.conclusion


@pytest.mark.parametrize("run", [stages.table2, learning.fine_tuning])
def test_a_trunk_that_stays_as_it_is_must_have_learnt(
    run: Callable[[Workbench], Findings], scenes: Dataset, tmp_path: Path
) -> None:
    mine = bench(tmp_path, "table2", pretrained="none")
    mine.whole = scenes
    with pytest.raises(FullyconvError, match=r"SEG-R002 .*give --pretrained crops, hub or FILE"):
        run(mine)
    assert not list(tmp_path.iterdir())


def test_hha_takes_the_place_of_depth_where_the_camera_is_known(scenes: Dataset, tmp_path: Path) -> None:
    mine = bench(tmp_path, "rgbd", camera="150,150,79.5,31.5,0.02")
    mine.whole = scenes
    found = depth.rgbd(mine)
    labels = ["RGB", "HHA", "RGB and depth, early", "RGB and HHA, late"]
    assert list(dict.fromkeys(row.label for row in found.rows)) == labels
    assert (
        next(row.paper for row in found.rows if row.label == "RGB and HHA, late" and row.measure == "mean IU") == 32.8
    )
    plan = json.loads((tmp_path / "runs" / "rgb-and-hha-late-seed0" / "plan.json").read_text())
    assert plan["architecture"]["streams"] == [3, 3]
    pair = scenes.pairs("val")[0]
    written = np.array(Image.open(tmp_path / "hha" / "val" / f"{pair.name}.png"))
    metres = 0.02 * np.array(Image.open(pair.more[0]))
    assert np.array_equal(written, hha(metres, Camera(150, 150, 79.5, 31.5)))


def test_the_camera_of_nyud_is_known(scenes: Dataset) -> None:
    assert depth.camera_of(None, replace(scenes, layout="nyud")) == (NYUD_CAMERA, 0.001)
    assert depth.camera_of(None, scenes) is None
    assert depth.camera_of("1,2,3,4,5", replace(scenes, layout="nyud")) == (Camera(1, 2, 3, 4), 5)


@pytest.mark.parametrize("camera", ["", "518.9", "a,b,c,d,e", "1,1,0,0", "1,1,0,0,1,1", "1,0,0,0,1", "1,1,0,0,-1"])
def test_what_is_no_camera_is_refused(camera: str, scenes: Dataset) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-R002 .*FX,FY,CX,CY,METRES"):
        depth.camera_of(camera, scenes)


@pytest.mark.parametrize("there", [False, True])
def test_depth_that_nyud_lacks_is_named(there: bool, scenes: Dataset, tmp_path: Path) -> None:
    mine = bench(tmp_path / "out", "rgbd")
    pairs = (Pair("1", tmp_path / "data" / "images" / "1.png", None),)
    mine.whole = replace(scenes, layout="nyud", root=tmp_path, splits={"train": pairs, "val": pairs})
    if there:
        (tmp_path / "data" / "depth").mkdir(parents=True)
    with pytest.raises(FullyconvError, match=r"--data 'nyud:.*\?inputs=color,depth'") as refusal:
        depth.rgbd(mine)
    assert (f"there is no {tmp_path / 'data' / 'depth'}" in str(refusal.value)) is not there


def test_only_the_first_of_several_pictures_counts_as_depth(scenes: Dataset) -> None:
    def more(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        return tuple(replace(pair, more=(*pair.more, pair.image)) for pair in pairs)

    several = replace(scenes, splits={split: more(pairs) for split, pairs in scenes.splits.items()})
    assert depth._with_depth(several).splits == scenes.splits


@pytest.mark.parametrize(
    ("run", "cure"), [(heads.two_heads, "give the second with --also"), (depth.rgbd, "more=depth/{name}.png")]
)
def test_data_of_the_wrong_kind_are_refused(
    run: Callable[[Workbench], Findings], cure: str, scenes: Dataset, tmp_path: Path
) -> None:
    mine = bench(tmp_path, "rgbd")
    mine.whole = plain(scenes)
    with pytest.raises(FullyconvError, match=r"SEG-R002 .*" + re.escape(cure)):
        run(mine)


# Table 1 -------------------------------------------------------------------------------------------------------------


def bench(folder: Path, name: str, **settings: Any) -> Workbench:
    asked = Settings(name, None, (), minutes=0.001, trunk="test_resnet", pretrained="none", seed=0)
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
