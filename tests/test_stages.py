"""Stages: FCN-32s, 16s and 8s by one command are the three runs that one would make by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors.torch import load_file
from scenes import squares

from fullyconv.doctor import examine
from fullyconv.errors import FullyconvError
from fullyconv.prediction import load
from fullyconv.training import TrainingRun, checkpoints, train
from fullyconv.training.stages import SHARES, _length, _whole, models_of, staged_options, train_in_stages

MODEL = "fcn8s-test_resnet"
SETTINGS = {"recipe": "heavy", "reduction": "mean", "lr": 0.01, "batch": 2, "validations": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of a bright square on noise, four to train on and two to validate."""
    return squares(tmp_path_factory.mktemp("squares"), train=4, val=2)


@pytest.fixture(scope="module")
def staged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """An uninterrupted run of three stages."""
    run = tmp_path_factory.mktemp("staged") / "run"
    return train(data, model=MODEL, staged=True, steps=9, out=run, workers=0, **SETTINGS)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_stages_are_the_runs_that_one_would_make_by_hand(data: Path, staged: TrainingRun, tmp_path: Path):
    start = "none"
    for number, stage in enumerate(("32s", "16s", "8s")):
        settings = {**SETTINGS, "lr": 0.01 / 100**number, "pretrained": start, "report": False}
        train(data, model=f"fcn{stage}-test_resnet", steps=3, out=tmp_path / stage, workers=0, **settings)
        assert equal(staged.run / stage / "last", tmp_path / stage / "last")
        start = str(tmp_path / stage)


def test_the_folder_of_finished_stages_is_a_run(staged: TrainingRun):
    assert (staged.steps, staged.epochs) == (9, 4.5)
    assert TrainingRun.read(staged.run) == staged
    assert equal(staged.run / "model", staged.run / "8s" / "model")
    assert load(staged.run).architecture["name"] == MODEL
    assert "<svg" in (staged.run / "report.html").read_text() or "<img" in (staged.run / "report.html").read_text()
    lines = [json.loads(line) for line in (staged.run / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["stage"], line["step"]) for line in lines if line["kind"] == "train"]
    assert steps == [(("32s", "16s", "8s")[step // 3], step + 1) for step in range(9)]
    assert yaml.safe_load((staged.run / "args.yaml").read_text())["staged"] is True


@pytest.mark.parametrize("stage", ["32s", "16s"])
def test_a_run_killed_in_any_stage_resumes_to_the_same_bits(
    data: Path, staged: TrainingRun, tmp_path: Path, stage: str
):
    run = tmp_path / "run"
    options = {**SETTINGS, "model": MODEL, "steps": 9, "workers": 0, "out": run}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [sys.executable, "-m", "fullyconv", "train", str(data), "--staged", "--no-report", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not checkpoints.files(run / stage / "checkpoints") and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(FullyconvError, match=rf"SEG-M010.*{run} --resume"):
        load(run)
    train(data, out=run, resume=True, workers=0)
    for each in ("32s", "16s", "8s"):
        assert equal(run / each / "last", staged.run / each / "last")


def test_two_processes_go_from_stage_to_stage(data: Path, tmp_path: Path):
    words = ["--model", "fcn16s-test_convnext", "--staged", "--steps", "4", "--batch", "2", "--workers", "0"]
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",
        "-m",
        "fullyconv",
        "train",
        str(data),
    ]
    done = subprocess.run(
        [sys.executable, *launch, *words, "--no-report", "--out", str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = TrainingRun.read(tmp_path / "run")
    assert result is not None
    assert result.steps == 4


def test_a_finished_run_stays_as_it_is(data: Path, staged: TrainingRun):
    before = (staged.run / "report.html").stat().st_mtime_ns
    assert train(data, out=staged.run, resume=True, workers=0) == staged
    assert (staged.run / "report.html").stat().st_mtime_ns == before


def test_an_interrupted_stage_says_how_the_whole_goes_on(data: Path, tmp_path: Path):
    def stopped(*_: object, **__: object) -> TrainingRun:
        raise KeyboardInterrupt("stopped at step 2, saved; go on with: fullyconv train data --out run/32s --resume")

    options = {"model": MODEL, "recipe": "default", "pretrained": "none", "lr": None, "epochs": None, "budget": None}
    with pytest.raises(KeyboardInterrupt, match=f"32s: stopped at step 2, saved; .* --out {tmp_path}/run --resume"):
        train_in_stages(stopped, "data", {**options, "steps": 6}, tmp_path / "run", "folder")


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ({"steps": 10}, [{"steps": 6}, {"steps": 2}, {"steps": 2}]),
        ({"steps": 11}, [{"steps": 7}, {"steps": 2}, {"steps": 2}]),
        ({"steps": 3}, [{"steps": 1}, {"steps": 1}, {"steps": 1}]),
        ({"epochs": 50}, [{"epochs": 30}, {"epochs": 10}, {"epochs": 10}]),
        ({}, [{"epochs": 60}, {"epochs": 20}, {"epochs": 20}]),
        ({"budget": "10m"}, [{"budget": "360.000s"}, {"budget": "105.000s"}, {"budget": "90.000s"}]),
    ],
)
def test_the_length_is_shared_out_three_to_one_to_one(length, expected, tmp_path: Path):
    asked = []
    minutes = iter([6.5, 2.0, 1.5])

    def record(settings: Mapping[str, object], out: Path, first: bool, resume: bool) -> TrainingRun:
        asked.append({name: settings[name] for name in ("epochs", "steps", "budget") if settings[name] is not None})
        if len(asked) == 3:
            raise KeyboardInterrupt
        out.mkdir()
        done = TrainingRun(out, {}, 0, 0, 0, next(minutes))
        done.write()
        return done

    options = {"model": MODEL, "recipe": "default", "pretrained": "none", "lr": None}
    lengths = {"epochs": None, "steps": None, "budget": None, **length}
    with pytest.raises(KeyboardInterrupt):
        train_in_stages(record, "data", {**options, **lengths}, tmp_path, "folder")
    assert asked == expected


def test_every_stage_has_a_step(data: Path, tmp_path: Path):
    done = TrainingRun(tmp_path, {}, 0, 0, 0, 0)
    for recipe, stages in product(SHARES, (2, 3, 4)):
        for steps in range(stages, 60):
            options = {"recipe": recipe, "epochs": None, "steps": steps, "budget": None}
            found = [_length(options, stages, [done] * number)["steps"] for number in range(stages)]
            assert min(found) >= 1
            assert sum(found) == steps
    with pytest.raises(FullyconvError, match=r"SEG-T006.*3 stages.*--steps 2"):
        train(data, model=MODEL, staged=True, steps=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_budget_that_is_no_time_is_told_before_anything_is_written(data: Path, tmp_path: Path):
    with pytest.raises(FullyconvError, match=r"SEG-T006.*30x"):
        train(data, model=MODEL, staged=True, budget="30x", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "- staged", "staged"])
def test_an_args_file_of_another_kind_is_no_staged_run(tmp_path: Path, text: str):
    (tmp_path / "args.yaml").write_text(text)
    assert staged_options(tmp_path) is None


def test_a_staged_run_goes_on_with_what_it_was_begun_with_even_before_its_first_plan(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {"batch": 2, "crop": (32, 32), "workers": 0, "precision": "fp32", "report": False}
    with monkeypatch.context() as patch:
        patch.setattr("fullyconv.training.run._Run.carry_out", Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            train(
                data, model="fcn16s-test_resnet", staged=True, steps=2, out=tmp_path / "run",
                also=[f"other={data}"], **settings,
            )  # fmt: skip
    assert not list((tmp_path / "run").glob("*/plan.json"))
    train(data, out=tmp_path / "run", resume=True, workers=0)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert len(config["heads"]) == 2


def test_stages_whose_time_is_over_before_they_begin_have_a_step(data: Path, tmp_path: Path):
    settings = {"batch": 2, "crop": (32, 32), "workers": 0, "precision": "fp32", "report": False}
    run = train(data, model="fcn16s-test_resnet", staged=True, budget="0.001s", out=tmp_path / "run", **settings)
    assert run.steps >= 2


def test_data_are_examined_and_told_once(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch):
    examined = []
    monkeypatch.setattr(
        "fullyconv.doctor.examine", lambda *args, **options: examined.append(0) or examine(*args, **options)
    )
    settings = {"steps": 2, "batch": 2, "workers": 0, "precision": "fp32", "report": False}
    train(data, model="fcn16s-test_resnet", staged=True, out=tmp_path / "run", **settings)
    assert len(examined) == 1
    assert capfd.readouterr().err.count("2 classes; train 4, val 2") == 1


def test_the_speed_of_all_stages_is_their_images_over_the_time_that_these_took(tmp_path: Path):
    first = TrainingRun(tmp_path, {}, epochs=1.0, steps=1, images_per_second=2.0, minutes=9.0)
    first.write()
    second = replace(first, epochs=3.0, images_per_second=6.0)
    assert _whole(tmp_path, [first, second], report=False).images_per_second == 4.0


def test_only_nets_with_earlier_stages_are_staged(data: Path, tmp_path: Path):
    assert models_of("fcn16s-vgg16") == ("fcn32s-vgg16", "fcn16s-vgg16")
    for wrong in ("fcn32s-vgg16", "fcn8s-atonce-vgg16", "resnet18"):
        with pytest.raises(FullyconvError, match="SEG-T010"):
            train(data, model=wrong, staged=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
