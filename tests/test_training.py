"""Training: the same bits however it is interrupted or shared out, and a run folder that says what happened."""

import errno
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from scenes import save, squares

from fullyconv import doctor, images
from fullyconv.datasets import Dataset, Pair, open_dataset
from fullyconv.errors import FullyconvError
from fullyconv.evaluation import count, evaluate
from fullyconv.images import read_image
from fullyconv.labels import LabelSet
from fullyconv.models import create
from fullyconv.prediction import Segmenter, load
from fullyconv.sampling import Stream
from fullyconv.training import TrainingRun, checkpoints, train
from fullyconv.training.folders import fingerprint_of, newest_run, opened
from fullyconv.training.journal import Journal
from fullyconv.training.loading import Decoder, Feed, Samples, batches
from fullyconv.training.loop import Average, InterruptedTrainingError, Loop, Pace
from fullyconv.training.plan import (
    Plan,
    architecture_of,
    bands_of,
    class_weights_of,
    crop_for,
    recipe_of,
    recorded,
    seconds_of,
    some_pixels,
    steps_of,
)
from fullyconv.training.recipes import CVPR15, RECIPES, Recipe, learning_rate_factor
from fullyconv.transforms import Augmentation

TINY = "fcn16s-test_resnet"
SHORT = ["--model", TINY, "--steps", "12", "--batch", "4", "--crop", "[32,32]", "--validations", "4", "--workers", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures of a bright square on noise, twelve to train on and four to validate."""
    return squares(tmp_path_factory.mktemp("squares"), train=12, val=4, size=(48, 64))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


def losses_of(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def equal(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def command(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "fullyconv", *map(str, arguments)], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(data, model=TINY, out=run, steps=12, batch=4, crop=(32, 32), validations=4, workers=0)
    return run


def test_any_number_of_workers_gives_the_same_bits(data, whole, tmp_path):
    length = {"steps": 12, "batch": 4, "crop": (32, 32), "validations": 4}
    train(data, model=TINY, out=tmp_path / "run", workers=2, report=False, **length)
    assert equal(whole, tmp_path / "run")


def _last_step(run: Path) -> int:
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=-1)


@pytest.mark.parametrize("step", [1, 5])
def test_a_killed_run_resumes_to_the_same_bits(data, whole, tmp_path, step):
    run = tmp_path / "run"
    process = command("train", data, "--out", run, *SHORT)
    deadline = time.monotonic() + 120
    while _last_step(run) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    train(data, out=run, resume=True, workers=1, report=False)
    assert equal(whole, run)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_run_killed_before_its_first_checkpoint_begins_again(data, whole, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "plan.json").write_text((whole / "plan.json").read_text())
    train(data, out=run, resume=True, workers=0, report=False)
    assert equal(whole, run)


def test_a_run_killed_before_its_start_is_saved_is_none(data, tmp_path, monkeypatch):
    def killed(folder: Path, *_: object) -> None:
        folder.mkdir(parents=True)
        raise SystemExit

    monkeypatch.setattr(checkpoints, "write", killed)
    given = Segmenter(create(TINY, 2), open_dataset(data).labels, {"name": TINY, "num_classes": 2})
    settings = {"batch": 2, "crop": (32, 32), "workers": 0, "precision": "fp32"}
    with pytest.raises(SystemExit):
        train(data, model=given, out=tmp_path / "run", steps=1, **settings)
    with pytest.raises(FullyconvError, match=r"SEG-T002.*holds no plan\.json"):  # and none at random weights
        train(data, out=tmp_path / "run", resume=True)
    with pytest.raises(FullyconvError, match=r"SEG-T001.*no run that could go on; choose another name"):
        train(data, out=tmp_path / "run", steps=1)


def test_a_start_that_cannot_be_saved_leaves_nothing_behind(data, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "write", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        train(data, model=TINY, out=tmp_path / "run", steps=1, batch=2, crop=(32, 32), workers=0, precision="fp32")
    assert not (tmp_path / "run").exists()


def end_at_once(
    monkeypatch: pytest.MonkeyPatch, by: type[BaseException], data: Path, run: Path, **options: Any
) -> None:
    """Trains into a run whose loop ends before its first step."""
    settings = {"steps": 1, "batch": 2, "crop": (32, 32), "workers": 0, "precision": "fp32", "report": False}
    monkeypatch.setattr(Loop, "fit", Mock(side_effect=by))
    train(data, model=TINY, out=run, **{**settings, **options})


def test_a_fault_on_resume_takes_nothing_away(data, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 0, saved; .* --resume"):
        end_at_once(monkeypatch, InterruptedTrainingError, data, tmp_path / "run")
    with pytest.raises(LookupError):
        end_at_once(monkeypatch, LookupError, data, tmp_path / "run", resume=True)
    with pytest.raises(FullyconvError, match=r"SEG-T015.*at step 0.*--resume"):
        end_at_once(monkeypatch, MemoryError, data, tmp_path / "run", resume=True)
    assert checkpoints.files(tmp_path / "run" / "checkpoints")


def test_a_fault_takes_nothing_from_a_run_without_checkpoints(data, tmp_path, monkeypatch, capfd):
    with pytest.raises(KeyboardInterrupt):
        end_at_once(monkeypatch, InterruptedTrainingError, data, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "model").mkdir()
    with pytest.raises(LookupError):
        end_at_once(monkeypatch, LookupError, data, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "model").exists()
    assert "no checkpoint of the run is left, so it begins again" in capfd.readouterr().err


def test_another_optimizer_wants_a_rate_of_its_own(data, tmp_path):
    with pytest.raises(FullyconvError, match=r"SEG-T012.*--recipe heavy .* sgd, 1e-10.*--lr"):
        train(data, model=TINY, out=tmp_path / "run", recipe="heavy", optimizer="adamw", steps=1)
    assert not (tmp_path / "run").exists()


def test_a_score_that_is_no_number_is_written_as_json_can(tmp_path):
    run = TrainingRun(tmp_path, {"mean_iou": math.nan}, epochs=1.0, steps=1, images_per_second=2.0, minutes=9.0)
    run.write()
    assert json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)["best"] == {"mean_iou": None}
    read = TrainingRun.read(tmp_path)
    assert read is not None
    assert math.isnan(read.best["mean_iou"])


def test_a_run_that_goes_on_before_its_first_step_says_so(data, tmp_path, monkeypatch, capfd):
    told = []
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            end_at_once(monkeypatch, InterruptedTrainingError, data, tmp_path / "run", resume=resume)
        told.append(capfd.readouterr().err)
    assert ["weights start at random" in text for text in told] == [True, False]
    assert ["resumed at step 0" in text for text in told] == [False, True]


def test_a_stop_in_the_last_validation_is_heard(data, tmp_path, monkeypatch):
    def stopped(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return count(*arguments)

    monkeypatch.setattr("fullyconv.training.run.count", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 1, saved; .* --resume"):
        train(
            data, model=TINY, out=tmp_path / "run", steps=1, batch=2, crop=(32, 32), workers=0, validations=1,
            precision="fp32",
        )  # fmt: skip
    monkeypatch.undo()
    assert TrainingRun.read(tmp_path / "run") is None
    assert train(data, out=tmp_path / "run", resume=True, workers=0, report=False).steps == 1


def test_a_run_that_is_over_is_neither_validated_nor_reported_again(data, tmp_path):
    run = train(data, model=TINY, out=tmp_path, steps=1, batch=2, crop=(32, 32), workers=0, precision="fp32")
    metrics, report = (tmp_path / "metrics.jsonl").read_text(), (tmp_path / "report.html").stat().st_mtime_ns
    assert train(data, out=tmp_path, resume=True, workers=0) == run
    assert (tmp_path / "report.html").stat().st_mtime_ns == report
    (tmp_path / "result.json").unlink()  # killed while it was written
    assert train(data, out=tmp_path, resume=True, workers=0, report=False).steps == 1
    assert (tmp_path / "metrics.jsonl").read_text() == metrics


def test_the_report_is_no_part_of_the_images_per_second(data, tmp_path, monkeypatch):
    clock = [10.0]
    monkeypatch.setattr(Pace, "elapsed", lambda _: clock[0])
    monkeypatch.setattr("fullyconv.training.run.evaluate", Mock())
    monkeypatch.setattr("fullyconv.training.run.write_report", lambda _: clock.__setitem__(0, 60.0))
    run = train(data, model=TINY, out=tmp_path, steps=1, batch=2, crop=(32, 32), workers=0, precision="fp32")
    assert (run.images_per_second, run.minutes) == (0.2, 1.0)
    assert TrainingRun.read(tmp_path) == run


def test_a_kill_while_the_journal_is_opened_loses_no_line(tmp_path, monkeypatch):
    def killed(file: Path, *_: object, **__: object) -> None:
        file.open("w").close()
        raise SystemExit

    lines = "".join(json.dumps({"kind": "train", "step": step}) + "\n" for step in range(3))
    (tmp_path / "metrics.jsonl").write_text(lines)
    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(SystemExit):
        Journal(tmp_path, Accelerator(cpu=True), from_step=1)
    assert (tmp_path / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_says_how_to_go_on(data, tmp_path, number):
    run = tmp_path / "run"
    process = command("train", data, "--out", run, *SHORT, "--steps", "100000")
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--out {run} --resume" in errors
    assert "Traceback" not in errors
    assert len(checkpoints.files(run / "checkpoints")) in (1, 2)


SMOOTH = ["--model", "fcn16s-test_convnext", "--optimizer", "sgd", "--lr", "0.02", "--ema", "0"]  # no batch statistics


@pytest.mark.parametrize("length", [["--steps", "12", "--no-report"], ["--budget", "10s", "--precision", "fp32"]])
def test_two_processes_train_as_one(data, tmp_path, length):
    run = tmp_path / "run"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "fullyconv"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "train", str(data), "--out", str(run), *SHORT[4:], *SMOOTH, *length],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("validation") >= 1
    assert load(run).labels.names == ("ground", "square")
    if "--steps" in length:
        options = {
            "optimizer": "sgd",
            "lr": 0.02,
            "ema": 0.0,
            "batch": 4,
            "crop": (32, 32),
            "workers": 0,
            "report": False,
        }
        for parts in (1, 2):
            alone = tmp_path / f"alone{parts}"
            train(data, model=SMOOTH[1], out=alone, steps=12, accumulate=parts, **options)
            one, two = weights(alone), weights(run)
            assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
            assert not torch.allclose(one["score_layers.stride16.weight"], torch.zeros(1))


def test_a_run_folder_tells_all(whole):
    expected = {
        "args.yaml", "checkpoints", "env.json", "evaluation", "last", "metrics.jsonl", "model", "plan.json", "plots",
        "report.html", "result.json",
    }  # fmt: skip
    assert {item.name for item in whole.iterdir()} - {"tensorboard"} == expected
    config = json.loads((whole / "model" / "config.json").read_text())
    assert config["plan"]["steps"] == 12
    assert yaml.safe_load((whole / "args.yaml").read_text())["crop"] == [32, 32]
    assert config["data"]["images"] == {"train": 12, "val": 4}
    assert 0 <= config["metrics"]["mean_iou"] <= 1
    assert len(checkpoints.files(whole / "checkpoints")) == 2
    assert Plan.from_json(json.loads((whole / "plan.json").read_text())).recipe.batch == 4


@pytest.mark.parametrize(
    ("bands", "heads", "commands"),
    [
        ([3], [], ["PHOTOS --out masks/"]),
        ([3, 1, 3], [], ["PHOTOS --more 'MORE/{name}.png,MORE/{name}.png' --out masks/"]),
        ([3], ["a", "b"], ["PHOTOS --out masks/a --head a", "PHOTOS --out masks/b --head b"]),
    ],
)
def test_a_result_tells_how_to_predict(tmp_path, bands, heads, commands):
    labels = LabelSet(("ground", "square")).to_dict()
    config = {"preprocessing": {"bands": bands}, "heads": [{"name": head, "labels": labels} for head in heads]}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    told = str(TrainingRun(tmp_path, {}, 1.0, 1, 1.0, 1.0))
    assert "1.0 epochs, 1 step in" in told
    assert told.splitlines()[1:] == [f"predict    fullyconv predict {tmp_path} {command}" for command in commands]


def test_a_run_without_a_report_is_scored_all_the_same(data, whole, tmp_path):
    run = train(data, model=TINY, out=tmp_path / "run", steps=12, batch=4, crop=(32, 32), workers=0, report=False)
    assert equal(whole, run.run)
    assert set(run.best) >= {"mean_iou", "pixel_accuracy"}
    assert not {"evaluation", "plots", "report.html"} & {item.name for item in run.run.iterdir()}
    assert "report.html" not in str(run)


def test_a_network_learns_the_squares(data, tmp_path):
    run = train(
        data,
        model="fcn4s-test_resnet",
        out=tmp_path / "run",
        epochs=60,
        batch=6,
        crop=(48, 64),
        validations=2,
        workers=0,
        report=False,
    )
    assert run.best["mean_iou"] > 0.8
    assert set(run.to_json()) == {"run", "best", "epochs", "steps", "images_per_second", "minutes"}


def test_a_budget_ends_in_time(data, tmp_path):
    begun = time.monotonic()
    settings = {"batch": 4, "crop": (32, 32), "workers": 0, "precision": "fp32"}
    run = train(data, model=TINY, out=tmp_path / "run", budget="8s", **settings)
    assert run.steps > 0
    assert time.monotonic() - begun < 40


def test_slow_validation_takes_at_most_a_quarter_of_a_budget():
    pace = Pace(steps=None, budget_seconds=100.0, begun=time.monotonic())
    pace.keep_back(10)
    assert pace.progress(1, elapsed=45) == 0.5
    pace.keep_back(1000)
    assert pace.progress(1, elapsed=37.5) == 0.5
    assert pace.progress(1, elapsed=75) == 1


def test_a_fourth_band_counts_unless_the_file_says_that_it_is_alpha(tmp_path):
    import tifffile

    for extra in ("unassalpha", "unspecified"):
        pixels, file = np.zeros((4, 3, 4), np.uint8), tmp_path / f"{extra}.tif"
        tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=[extra])
    found = [bands_of([Pair(name, tmp_path / f"{name}.tif", None)], None) for name in ("unassalpha", "unspecified")]
    assert found == [(3,), (4,)]


def test_statistics_keep_no_whole_images(tmp_path):
    for dtype in (np.uint8, np.uint16):
        file = save(tmp_path / "a.png", np.arange(20_000).reshape(100, 200).astype(dtype))
        pixels = some_pixels(Pair("a", file, None), [1])
        assert torch.equal(pixels[0], read_image(file, channels=1).flatten()[::17] / (255 if dtype == np.uint8 else 1))
        assert pixels.untyped_storage().nbytes() == 4 * pixels.numel()


class Counting(Decoder):
    """Counts what is asked of it."""

    asked = 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += 1
        return super().__getitem__(index)


def test_no_more_images_are_looked_at_than_is_said(data, monkeypatch):
    dataset = open_dataset(data)
    pair = dataset.pairs("train")[0]
    read = Mock(wraps=images.read_header)
    monkeypatch.setattr(images, "read_header", read)
    assert bands_of([pair] * 31, None) == (3,)
    assert read.call_count == 16
    decoder = Counting([pair] * 999, dataset.labels, (3,))
    class_weights_of(decoder, "log")
    assert decoder.asked == 500


@pytest.mark.parametrize("bands", [1, 5])
def test_grey_and_many_bands_of_16_bits_are_trained_on(tmp_path, bands):
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(4):
            for kind in ("images", "masks"):
                (tmp_path / "data" / kind / split).mkdir(parents=True, exist_ok=True)
            pages = [Image.fromarray(random.integers(0, 4000, (40, 40), dtype=np.uint16)) for _ in range(bands)]
            file = tmp_path / "data" / "images" / split / f"{number}.tif"
            pages[0].save(file, save_all=True, append_images=pages[1:])
            mask = Image.fromarray(random.integers(0, 2, (40, 40), dtype=np.uint8))
            mask.save(tmp_path / "data" / "masks" / split / f"{number}.png")
    run = tmp_path / "run"
    train(tmp_path / "data", model=TINY, out=run, steps=2, batch=2, validations=1, workers=0)
    segmenter = load(run)
    assert segmenter.channels == bands
    assert segmenter.model.mean.max() < 0.1
    assert segmenter(file).mask.shape == (40, 40)


def test_a_stage_starts_from_the_run_before(data, whole, tmp_path):
    run = tmp_path / "run"
    length = {"steps": 1, "batch": 4, "crop": (32, 32), "report": False}
    train(data, model="fcn8s-test_resnet", pretrained=str(whole), out=run, lr=1e-12, **length)
    stage, before = weights(run), load_file(whole / "model" / "model.safetensors")
    assert torch.allclose(stage["score_layers.stride32.weight"], before["score_layers.stride32.weight"], atol=1e-6)
    assert stage["score_layers.stride8.weight"].abs().max() < 1e-6


def test_an_existing_run_is_never_overwritten(data, whole):
    before = (whole / "plan.json").read_bytes()
    with pytest.raises(FullyconvError, match="SEG-T001"):
        train(data, model=TINY, out=whole, steps=1)
    assert (whole / "plan.json").read_bytes() == before


def test_a_run_resumes_on_its_own_data_only(data, whole, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "images" / "train" / "00.png").unlink()
    (other / "masks" / "train" / "00.png").unlink()
    with pytest.raises(FullyconvError, match=r"SEG-T009 .*\(train: 12, val: 4\); .*other \(train: 11, val: 4\)"):
        train(other, out=whole, resume=True)


def test_another_set_may_be_validated_on(data, tmp_path):
    other = tmp_path / "other"
    for number in range(3):
        save(other / "images" / "val" / f"{number}.png", np.full((40, 40, 3), number, np.uint8))
        save(other / "masks" / "val" / f"{number}.png", np.eye(40, dtype=np.uint8))
    shutil.copy(data / "classes.txt", other)
    shutil.copy(data / "masks" / "val" / "12.png", other / "masks" / "val" / "12.png")  # 255 is ignored here, too
    shutil.copy(data / "images" / "val" / "12.png", other / "images" / "val" / "12.png")
    length = {"steps": 2, "batch": 2, "crop": (32, 32), "validations": 1, "workers": 0}
    train(data, model=TINY, out=tmp_path / "run", val=str(other), **length)
    told = json.loads((tmp_path / "run" / "evaluation" / "report.json").read_text())
    assert (told["images"], told["notes"]) == (4, [])
    assert "SEG-E009" in evaluate(tmp_path / "run", data, split="train").notes[0]
    train(data, out=tmp_path / "run", resume=True)  # knows what it was validated on
    with pytest.raises(FullyconvError, match=r"SEG-T020  12 of the 12 images"):
        train(data, model=TINY, out=tmp_path / "leaky", val=f"folder:{data}?val=train", **length)


def test_the_images_that_are_validated_on_anyway_need_not_be_named(data, tmp_path):
    with pytest.raises(FullyconvError, match=r"SEG-T012.*leave --val out"):
        train(data, model=TINY, out=tmp_path / "run", val=f"{data}/")


def test_the_newest_run_on_the_data_is_found_whatever_it_was_begun_with(data, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("other", "more"):
        shutil.copytree(data, name)
    for number in range(12, 16):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(f"other/images/val/{number}.png")
    for number, (also, val) in enumerate([([], None), (["sides=more"], None), ([], "other")]):
        folder = tmp_path / "runs" / str(number)
        folder.mkdir(parents=True)
        plan = {"also": also, "val": val, "fingerprint": fingerprint_of(opened(data, also, val))}
        (folder / "plan.json").write_text(json.dumps({**json.loads((whole / "plan.json").read_text()), **plan}))
        os.utime(folder / "plan.json", (number, number))
    (tmp_path / "runs" / "0" / "args.yaml").write_text("staged: false")
    assert newest_run(data, [], None) == Path("runs/2")
    assert newest_run(data, ["sides=more"], None) == Path("runs/1")
    shutil.rmtree("other")
    assert newest_run(data, [], None) == Path("runs/1")
    shutil.rmtree("more")
    assert newest_run(data, [], None) == Path("runs/0")
    shutil.rmtree("runs")
    assert newest_run(data, [], None) is None


def test_an_unlabelled_image_is_refused_before_anything_is_written(data, tmp_path):
    dataset = open_dataset(data)
    first, *rest = dataset.pairs("val")
    splits = {**dataset.splits, "val": (replace(first, mask=None), *rest)}
    with pytest.raises(FullyconvError, match=r"SEG-T004.*split val"):
        train(replace(dataset, splits=splits), model=TINY, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


def test_data_are_named_as_a_command_takes_them(data):
    given = f"folder:{data}?val=train"
    assert recorded({"data": open_dataset(given), "also": [open_dataset(data)]}) == {"data": given, "also": [str(data)]}


def test_nothing_to_resume_is_said(data, tmp_path):
    with pytest.raises(FullyconvError, match="SEG-T002"):
        train(data, out=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_plan_that_cannot_be_read_is_said(data, whole, tmp_path):
    later = json.dumps({**json.loads((whole / "plan.json").read_text()), "later": True})
    for text in ("{", "{}", "[]", later):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(FullyconvError, match=r"SEG-T002.*plan\.json"):
            train(data, out=tmp_path, resume=True)


def test_a_wrong_model_leaves_nothing_behind(data, tmp_path):
    with pytest.raises(FullyconvError, match="SEG-M001"):
        train(data, model="fcn8s-resnet81", out=tmp_path / "run")
    with pytest.raises(FullyconvError, match="SEG-T007"):
        train(data, model=TINY, out=tmp_path / "run", batch=4, accumulate=3)
    model = create(TINY, 5)
    five = Segmenter(model, open_dataset(data).labels.__class__(tuple("abcde")), {"name": TINY, "num_classes": 5})
    with pytest.raises(FullyconvError, match="SEG-M006"):
        train(data, model=five, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["cvpr15", "heavy"])
def test_the_papers_recipes_train_on_whole_images(data, tmp_path, recipe):
    length = {"steps": 2, "validations": 1, "workers": 0, "report": False}
    run = train(data, model=TINY, out=tmp_path / "run", recipe=recipe, **length)
    plan = json.loads((run.run / "plan.json").read_text())
    assert plan["recipe"]["augmentation"] is None
    assert plan["recipe"]["batch"] == {"cvpr15": 20, "heavy": 1}[recipe]


def test_a_mean_takes_the_steps_of_a_sum_at_a_converted_rate(data, tmp_path, capfd):
    runs = {}
    for reduction in ("sum", "mean", "image"):
        options = {
            "recipe": "heavy",
            "reduction": reduction,
            "steps": 3,
            "validations": 1,
            "workers": 0,
            "report": False,
        }
        runs[reduction] = train(data, model="fcn16s-test_convnext", out=tmp_path / reduction, **options).run
        said = capfd.readouterr().err
        assert ("2944 counted pixels an image" in said) == (reduction != "sum")  # 46 rows of 64 are not ignored
    summed, losses_summed = weights(runs["sum"]), losses_of(runs["sum"])
    for reduction in ("mean", "image"):
        recipe = json.loads((runs[reduction] / "plan.json").read_text())["recipe"]
        assert recipe["learning_rate"] == pytest.approx(1e-10 * 2944, rel=1e-12)
        assert recipe["weight_decay"] == pytest.approx(5e-4 / 2944, rel=1e-12)
        assert [2944 * loss for loss in losses_of(runs[reduction])] == pytest.approx(losses_summed, rel=1e-5)
        name = "score_layers.stride32.weight"  # it starts at zero, so nothing but the steps is in it
        torch.testing.assert_close(weights(runs[reduction])[name], summed[name], rtol=1e-4, atol=1e-12)


def test_pixels_are_counted_only_for_a_rate_that_goes_by_them(data, tmp_path, monkeypatch):
    monkeypatch.setattr("fullyconv.training.run.counted_pixels", Mock(side_effect=AssertionError))
    with pytest.raises(KeyboardInterrupt):
        end_at_once(monkeypatch, InterruptedTrainingError, data, tmp_path / "run", reduction="sum")
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["recipe"]["reduction"] == "sum"


def test_a_loss_that_is_a_mean_takes_the_rate_of_a_mean(data, tmp_path, capfd):
    options = {"recipe": "heavy", "loss": "dice", "steps": 1, "workers": 0, "precision": "fp32", "report": False}
    plans = {}
    for rate in (None, 0.01):
        train(data, model=TINY, out=tmp_path / str(rate), lr=rate, **options)
        plans[rate] = json.loads((tmp_path / str(rate) / "plan.json").read_text())["recipe"]
        assert ("becomes" in capfd.readouterr().err) == (rate is None)
    assert plans[None]["learning_rate"] == pytest.approx(1e-10 * 2944, rel=1e-12)
    assert plans[0.01]["learning_rate"] == 0.01
    assert {plan["reduction"] for plan in plans.values()} == {"mean"}


def test_samples_far_larger_than_the_images_are_refused(data, tmp_path):
    with pytest.raises(FullyconvError, match=r"SEG-T013.*48 pixels high and 64 wide; use --crop 48,64"):
        train(data, model=TINY, out=tmp_path / "run", crop=(4000, 4000))
    assert not (tmp_path / "run").exists()


def test_a_rate_that_is_given_is_not_converted(data, tmp_path):
    options = {"recipe": "heavy", "reduction": "mean", "lr": 1e-4, "steps": 1, "workers": 0, "report": False}
    run = train(data, model=TINY, out=tmp_path / "run", **options)
    recipe = json.loads((run.run / "plan.json").read_text())["recipe"]
    assert (recipe["learning_rate"], recipe["weight_decay"], recipe["reduction"]) == (1e-4, 5e-4, "mean")


def test_an_infinite_loss_is_said_with_a_cure(data, tmp_path):
    with pytest.raises(FullyconvError, match=r"SEG-T008.*--lr"):
        train(data, model=TINY, out=tmp_path / "run", recipe="heavy", lr=1000, steps=20, workers=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0), ("epochs", math.nan), ("steps", 0), ("batch", -8), ("accumulate", 0), ("lr", -1), ("lr", 1e30),
        ("ema", 1), ("growth", 2), ("crop", (32, 0)), ("dropout", 1), ("channels", 0), ("streams", [0, 3]),
        ("workers", -1), ("validations", 0),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(data, tmp_path, option, value):
    with pytest.raises(FullyconvError, match=f"SEG-U004  --{option} must be "):
        train(data, model=TINY, out=tmp_path / "run", **{option: value})
    assert not (tmp_path / "run").exists()


def test_a_mask_of_another_size_is_named(tmp_path, data):
    dataset = open_dataset(data)
    pair = dataset.pairs("train")[0]
    Image.new("L", (10, 10)).save(tmp_path / "small.png")
    broken = type(pair)(pair.name, pair.image, tmp_path / "small.png")
    with pytest.raises(FullyconvError, match=r"SEG-T005.*small\.png.*10 x 10.*64 x 48"):
        Decoder([broken], dataset.labels, (3,))
    with pytest.raises(FullyconvError, match="SEG-T004"):
        Decoder([type(pair)(pair.name, pair.image, None)], dataset.labels, (3,))


def test_a_bad_image_for_validation_is_told_before_training_begins(data, tmp_path, monkeypatch):
    dataset = open_dataset(data)
    bad = shutil.copy(dataset.pairs("val")[-1].image, tmp_path / "bad.png")
    bad.write_bytes(bad.read_bytes()[:-1000])
    val = (*dataset.pairs("val")[:-1], replace(dataset.pairs("val")[-1], image=bad))
    few = partial(doctor.examine, limit=2)  # of so many images that the doctor does not decode them all
    monkeypatch.setattr("fullyconv.training.run.doctor.examine", few)
    with pytest.raises(FullyconvError, match=r"SEG-D009 .*bad\.png"):
        train(replace(dataset, splits={**dataset.splits, "val": val}), model=TINY, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


def test_faults_in_a_worker_keep_their_code(data, tmp_path):
    dataset = open_dataset(data)
    pair = dataset.pairs("train")[0]
    decoder = Decoder([type(pair)(pair.name, pair.image, tmp_path / "gone.png")], dataset.labels, (3,), limit=0)
    source = batches(Samples(decoder, Stream(0, 1), None), step=0, batch=1, parts=1, process=0, processes=1, workers=1)
    with pytest.raises(FullyconvError, match=r"gone\.png"):
        next(source)
    source.close()


@pytest.mark.parametrize("staged", [False, True])
def test_a_fault_before_the_first_step_leaves_nothing_behind(data, tmp_path, monkeypatch, staged):
    def fail(*_: object) -> float:
        raise LookupError

    monkeypatch.setattr("fullyconv.training.loop.Loop._step", fail)
    with pytest.raises(LookupError):
        train(data, model=TINY, out=tmp_path / "run", staged=staged, steps=4, batch=2, crop=(32, 32), workers=1)
    assert not (tmp_path / "run").exists()
    assert multiprocessing.active_children() == []


class Unreadable(Decoder):
    """Fails in a way that nobody has thought of."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise MemoryError


def test_an_unexpected_fault_ends_the_workers(data):
    dataset = open_dataset(data)
    samples = Samples(Unreadable(dataset.pairs("train"), dataset.labels, (3,)), Stream(0, 12), None)
    source = batches(samples, step=0, batch=2, parts=1, process=0, processes=1, workers=2)
    with pytest.raises(MemoryError) as held:
        next(source)
    assert held.traceback
    assert multiprocessing.active_children() == []


def test_images_of_unlike_size_are_padded_and_ignored(data, tmp_path):
    dataset = open_dataset(data)
    Image.new("RGB", (20, 60)).save(tmp_path / "tall.png")
    Image.new("L", (20, 60)).save(tmp_path / "mask.png")
    pair = dataset.pairs("train")[0]
    decoder = Decoder([pair, type(pair)("tall", tmp_path / "tall.png", tmp_path / "mask.png")], dataset.labels, (3,))
    source = batches(Samples(decoder, Stream(0, 2), None), step=0, batch=2, parts=1, process=0, processes=1, workers=0)
    image, mask = next(source)
    assert image.shape == (2, 3, 60, 64)
    assert sorted((each != 255).sum().item() for each in mask) == [20 * 60, 46 * 64]


def test_the_average_is_young_at_first_and_lags_behind_later():
    model = create(TINY, 2)
    average = Average(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = next(average.model.parameters()).clone()
    average.update(model, step=0)
    moved = next(average.model.parameters()) - before
    assert torch.allclose(moved, torch.full_like(moved, 0.9), atol=1e-5)
    average.update(model, step=10_000)
    moved = next(average.model.parameters()) - before
    assert torch.allclose(moved, torch.full_like(moved, 0.91), atol=1e-5)


def test_schedules_rise_and_fall():
    poly, cosine, constant = (Recipe(schedule=name, warmup=0.1) for name in ("poly", "cosine", "constant"))
    for recipe in (poly, cosine, constant):
        assert learning_rate_factor(recipe, 0.05) == pytest.approx(0.5)
        assert learning_rate_factor(recipe, 0.1) == pytest.approx(1)
    assert learning_rate_factor(poly, 0.55) == pytest.approx(0.5**0.9)
    assert learning_rate_factor(cosine, 0.55) == pytest.approx(0.5)
    assert learning_rate_factor(cosine, 1.0) == pytest.approx(0)
    assert learning_rate_factor(constant, 0.9) == 1


def test_what_a_kill_leaves_of_a_checkpoint_is_removed(tmp_path):
    for step, killed in ((1, ".step-0000001.draft.safetensors"), (2, ".tmpAbCdEf")):
        (tmp_path / killed).touch()
        checkpoints.write(tmp_path, step, {"weight": torch.zeros(2)}, {"elapsed": 0.0})
    assert list(tmp_path.iterdir()) == checkpoints.files(tmp_path)


def test_what_others_keep_beside_checkpoints_stays(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".nfs0001").touch()
    checkpoints.write(tmp_path, 1, {"weight": torch.zeros(2)}, {"elapsed": 0.0})
    assert {file.name for file in tmp_path.glob(".*")} == {".ipynb_checkpoints", ".nfs0001"}


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    for step in (1, 2, 3):
        checkpoints.write(tmp_path, step, {"weight": torch.full((2,), float(step))}, {"elapsed": 0.0})
    assert [file.name for file in checkpoints.files(tmp_path)] == [
        "step-0000002.safetensors",
        "step-0000003.safetensors",
    ]
    newest = checkpoints.files(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:20])
    found = checkpoints.read(tmp_path)
    assert found is not None
    assert found[1]["step"] == 2
    checkpoints.files(tmp_path)[0].write_bytes(b"")
    with pytest.raises(FullyconvError, match="SEG-T003"):
        checkpoints.read(tmp_path)


def test_samples_are_cut_in_the_proportions_of_the_images(tmp_path):
    for size, expected in [
        ((480, 360), (288, 384)),
        ((256, 256), (256, 256)),
        ((3000, 1000), (192, 576)),
        ((9, 9), (32, 32)),
    ]:
        Image.new("L", size).save(tmp_path / "image.png")
        assert crop_for([Pair("image", tmp_path / "image.png", None)] * 3) == expected


def test_light_falls_on_the_image_as_it_is_read(data):
    pairs = open_dataset(data).pairs("train")
    for bands, lit in (((3,), None), ((3, 1), 3), ((1, 1), 1)):
        recipe = recipe_of(RECIPES["default"], {}, pairs, bands, augment=None, crop=None)
        assert recipe.augmentation is not None
        assert recipe.augmentation.lit == lit


@pytest.mark.parametrize("side", [1, 3])
def test_few_pixels_have_statistics_too(tmp_path, side):
    pixels = np.arange(side**2, dtype=np.uint8).reshape(side, side) * 20
    Image.fromarray(pixels).save(tmp_path / "tiny.png")
    dataset = Dataset("folder", tmp_path, LabelSet(("a", "b")), {"train": (Pair("tiny", tmp_path / "tiny.png", None),)})
    found = architecture_of("any", dataset, (1,), None, "fixed", 0.0, "grid", "same")
    assert found["mean"] == pytest.approx([pixels.mean() / 255], rel=1e-6)
    assert found["std"] == pytest.approx([max(1e-3, pixels.std() / 255)], rel=1e-6)


def test_lengths_are_read_as_people_write_them():
    assert [seconds_of(text) for text in ("90s", "30m", "1.5h", "10")] == [90, 1800, 5400, 600]
    assert steps_of(2, None, None, size=10, batch=4) == 5
    assert steps_of(None, None, "30m", size=10, batch=4) is None
    for wrong in ("soon", "-3m", "0s"):
        with pytest.raises(FullyconvError, match="SEG-T006"):
            seconds_of(wrong)
    with pytest.raises(FullyconvError, match="SEG-T006"):
        steps_of(1, 1, None, size=10, batch=4)
    assert math.isclose(steps_of(None, None, None, size=8, batch=8) or 0, 100)


def test_samples_grow_at_the_same_step_wherever_a_run_begins(data):
    dataset = open_dataset(data)
    decoder = Decoder(dataset.pairs("train"), dataset.labels, (3,))
    augmentation = Augmentation(crop=(64, 96))

    def feed() -> Feed:
        def open_at(step: int, small: bool) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
            samples = Samples(decoder, Stream(0, 12), augmentation.shrunk(0.6) if small else augmentation)
            return batches(samples, step=step, batch=4, parts=2, process=0, processes=1, workers=0)

        return Feed(open_at, 2, 0.5)

    with closing(feed()) as whole:
        steps = [whole.step(number, number / 6) for number in range(6)]
    assert [step[0][0].shape[2:] for step in steps] == [(32, 64)] * 3 + [(64, 96)] * 3
    for begin in (1, 3, 5):
        with closing(feed()) as resumed:
            for number in range(begin, 6):
                for (image, mask), (same_image, same_mask) in zip(
                    steps[number], resumed.step(number, number / 6), strict=True
                ):
                    assert torch.equal(image, same_image)
                    assert torch.equal(mask, same_mask)


def test_only_samples_that_can_shrink_grow(data):
    pairs = open_dataset(data).pairs("train")
    default = RECIPES["default"]
    assert recipe_of(default, {}, pairs, (3,), augment=None, crop=(192, 192)).growth == default.growth > 0
    assert recipe_of(default, {}, pairs, (3,), augment=None, crop=(96, 192)).growth == 0
    assert recipe_of(default, {"growth": 0.0}, pairs, (3,), augment=None, crop=(192, 192)).growth == 0
    assert recipe_of(default, {}, pairs, (3,), augment="paper", crop=None).growth == 0
    assert recipe_of(CVPR15, {}, pairs, (3,), augment=None, crop=None).growth == 0
