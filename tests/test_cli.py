"""The command line, end to end: words in, exit status and text out."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from PIL import Image

from fullyconv import arguments, cli
from fullyconv.arguments import Count, Within
from fullyconv.cli import main
from fullyconv.errors import FullyconvError

ROOT = Path(__file__).resolve().parent.parent


def sample(
    data: str | Path | Callable[[], None],
    *files: str,
    out: Path | None = None,
    steps: int | None = None,
    rate: float = 0.1,
    crop: tuple[int, int] | None = (8, 8),
    names: Sequence[str] | None = None,
    schedule: Literal["poly", "cosine"] = "poly",
    tile: int | Literal["auto"] | None = "auto",
    resume: bool = False,
    augment: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Do a thing.

    Args:
        data: A folder. Nothing else.
        steps: How many.
        augment: Change the images.

    Example:
        fullyconv sample data/
    """
    return {name: value for name, value in locals().items() if name != "on_step"}


def stopped() -> None:
    """Stop."""
    raise KeyboardInterrupt("stopped at step 3; go on with --resume")


def unreadable() -> None:
    """Fail."""
    Path("no/such/file").read_text()


def unscored() -> dict[str, float]:
    """Give what JSON cannot hold."""
    print("on the way")
    return {"iou": float("nan"), "accuracy": 0.5}


def given(*words: str) -> dict[str, Any]:
    values: dict[str, Any] = arguments.call(sample, "sample", words, configurable=True)
    return values


def changed(*words: str) -> dict[str, Any]:
    """What differs from the defaults."""
    plain = given("d", "f")
    return {name: value for name, value in given("d", "f", *words).items() if value != plain[name]}


# Words to values


def test_words_become_values_of_the_annotated_types() -> None:
    assert changed("--steps", "3", "--rate=1e-3", "--out", "a/b") == {"steps": 3, "rate": 1e-3, "out": Path("a/b")}


def test_positional_words_may_stand_anywhere() -> None:
    assert given("d", "--steps", "3", "a", "--resume", "b")["files"] == ("a", "b")


def test_words_after_a_double_hyphen_are_positional() -> None:
    assert given("d", "--", "--steps")["files"] == ("--steps",)


def test_flags_are_bare_and_can_be_turned_off() -> None:
    assert changed("--resume", "--no-augment") == {"resume": True, "augment": False}


@pytest.mark.parametrize("text", ["288,384", "288x384", "[288, 384]"])
def test_pairs_are_written_in_three_ways(text: str) -> None:
    assert changed("--crop", text) == {"crop": (288, 384)}


def test_lists_are_written_with_commas() -> None:
    assert changed("--names", "road,1,null") == {"names": ["road", "1", "null"]}
    assert changed("--names", "road") == {"names": ["road"]}


def test_none_is_none_where_it_is_allowed() -> None:
    assert changed("--tile", "none", "--crop", "none") == {"tile": None, "crop": None}


def test_underscores_and_hyphens_are_alike() -> None:
    def function(*, batch_size: int = 1) -> int:
        return batch_size

    assert (
        arguments.call(function, "x", ["--batch_size", "2"]) == arguments.call(function, "x", ["--batch-size=2"]) == 2
    )


def test_callbacks_are_no_options() -> None:
    assert "on_step" not in [parameter.name for parameter in arguments.parameters(sample)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["d", "f", "--step", "3"], "SEG-U002  fullyconv sample has no option --step; did you mean --steps?"),
        (["d", "f", "--steps"], "SEG-U003  --steps needs a value; see fullyconv sample --help"),
        ([], "SEG-U003  fullyconv sample needs DATA and FILES...; see fullyconv sample --help"),
        (["d", "f", "--steps", "few"], "SEG-U004  --steps takes a whole number or none, got few"),
        (
            ["d", "f", "--schedule", "cosin"],
            "SEG-U004  --schedule takes poly or cosine, got cosin; did you mean cosine?",
        ),
        (["d", "f", "--config", "no.yaml"], "SEG-U006  --config no.yaml: there is no such file"),
    ],
)
def test_words_that_do_not_fit_are_refused_with_the_cure(words: list[str], message: str) -> None:
    with pytest.raises(FullyconvError) as caught:
        given(*words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "told"),
    [
        (Within(least=1), [1, 2.5, 1e9], [0.5, -1, -math.inf, math.nan], "at least 1"),
        (Within(above=0, most=1), [0.1, 1], [0, 1.1], "at most 1 and above 0"),
        (Within(least=0, below=1), [0, 0.9], [-0.1, 1], "at least 0 and below 1"),
    ],
)
def test_a_range_has_ends_of_its_own(limits: Within, inside: list[float], outside: list[float], told: str) -> None:
    assert all(number in limits for number in inside)
    assert not any(number in limits for number in outside)
    assert set(str(limits).split(" and ")) == set(told.split(" and "))


def test_ranges_are_kept_by_words_and_by_calls_alike() -> None:
    @arguments.bounded
    def function(*, size: tuple[Count, Count] | None = None, tile: Count | Literal["auto"] = "auto") -> object:
        return size, tile

    assert arguments.call(function, "f", ["--size", "3,4"]) == ((3, 4), "auto")
    with pytest.raises(FullyconvError, match="SEG-U004  --size must be at least 1, got 3,0"):
        arguments.call(function, "f", ["--size", "3,0"])
    with pytest.raises(FullyconvError, match="SEG-U004  --tile must be at least 1, got -1"):
        function(tile=-1)


def test_a_word_too_many_is_refused() -> None:
    with pytest.raises(FullyconvError, match="SEG-U003  fullyconv explain takes CODE; b is one too many"):
        arguments.call(cli.explain, "explain", ["a", "b"])


def test_configuration_file_gives_options_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "args.yaml"
    file.write_text("data: from-file\nsteps: 3\nresume: true\ncrop: [4, 5]\n")
    values = given("--config", str(file), "--steps", "9", "d", "f")
    assert (values["data"], values["steps"], values["resume"], values["crop"]) == ("d", 9, True, (4, 5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 3", "SEG-U006 .*args.yaml: fullyconv sample has no option step; did you mean steps?"),
        ("steps: few", "SEG-U004 .*args.yaml: steps takes a whole number or none"),
        ("steps: [", "SEG-U006 .*args.yaml: "),
        ("- 1", "SEG-U006 .*args.yaml: "),
    ],
)
def test_faults_of_a_configuration_file_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "args.yaml").write_text(text)
    with pytest.raises(FullyconvError, match=message):
        given("d", "f", "--config", str(tmp_path / "args.yaml"))


def test_help_shows_usage_options_defaults_and_example() -> None:
    text = arguments.help_text(sample, "sample")
    assert text.startswith("usage: fullyconv sample DATA FILES... [options]   (--help-all says more)\nDo a thing.\n")
    assert "A folder.\n" in text
    assert "--steps N " in text
    assert "--crop N,N " in text
    assert "[8,8]" in text
    assert "--no-augment " in text
    assert text.endswith("\n\nExample: fullyconv sample data/")
    whole = arguments.help_text(sample, "sample", whole=True)
    assert whole.startswith("usage: fullyconv sample DATA FILES... [options]\nDo a thing.\n")
    assert "A folder. Nothing else.\n" in whole


def test_a_text_has_the_placeholder_of_its_annotation() -> None:
    def function(
        *,
        budget: Annotated[str, "TIME"] | None = None,
        also: list[Annotated[str, "DATA"]] = [],  # noqa: B006
        out: str | Path = "",
    ) -> None: ...

    shown = [parameter.shown for parameter in arguments.parameters(function)]
    assert shown == ["--budget TIME", "--also DATA,...", "--out PATH"]


# Exit status and output


def test_overview_needs_no_torch() -> None:
    script = (
        "import sys; from fullyconv.cli import main; assert main(['--help']) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert all(f"  {command} " in done.stdout for command in cli.COMMANDS)


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fullyconv", "explian"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "SEG-U001  there is no command explian; did you mean explain?\n"


def test_explain_prints_why_and_cure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "u002"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("SEG-U002  ")
    assert "\nWhy:  " in shown
    assert "\nCure: " in shown


def test_a_closed_pipe_is_no_fault() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fullyconv", "explain"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == cli.CLOSED_PIPE
    process.stderr.close()


def test_explain_lists_all_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["faults"]
    assert {"code", "title", "why", "cure"} == set(listed[0])
    assert main(["explain"]) == 0
    assert capsys.readouterr().out.count("\n") == len(listed)


def test_explain_suggests_the_nearest_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "SEG-U0002"]) == 2
    assert capsys.readouterr().err == "SEG-U005  no error has the code SEG-U0002; did you mean SEG-U002?\n"


def test_refusals_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "Q", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["code"] == "SEG-U005"
    assert captured.err.startswith("SEG-U005  ")


def test_json_is_all_that_stands_on_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(cli.COMMANDS, "unscored", "test_cli:unscored")
    assert main(["unscored", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"iou": None, "accuracy": 0.5}
    assert captured.err == "on the way\n"


def test_interrupt_says_what_was_saved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(cli.COMMANDS, "stopped", "test_cli:stopped")
    assert main(["stopped"]) == 130
    assert capsys.readouterr().err == "stopped at step 3; go on with --resume\n"


def test_refused_files_are_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(cli.COMMANDS, "unreadable", "test_cli:unreadable")
    assert main(["unreadable"]) == 2
    assert capsys.readouterr().err.startswith("SEG-U007  no/such/file: No such file or directory; check the path")


@pytest.mark.parametrize(
    "words",
    [
        ["check", "nowhere"],
        ["train", "nowhere", "--out", "run"],
        ["evaluate", "nowhere", "nowhere"],
        ["score", "nowhere", "nowhere"],
        ["predict", "nowhere", "nowhere", "--out", "masks"],
    ],
)
def test_a_path_that_is_not_there_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("SEG-")
    assert "nowhere" in captured.err
    assert not captured.out
    assert not os.listdir(tmp_path)


# The main job: check, train, evaluate, predict, score


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six pictures of a bright square on dark ground, in `data/`, and a run trained for two steps."""
    root = tmp_path_factory.mktemp("project")
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / "data" / kind).mkdir(parents=True)
    for number in range(6):
        mask = np.zeros((48, 64), np.uint8)
        top, left = random.integers(0, 24, 2)
        mask[top : top + 24, left : left + 24] = 1
        image = (random.integers(0, 60, (48, 64, 3)) + 150 * mask[..., None]).astype(np.uint8)
        Image.fromarray(image).save(root / "data" / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "data" / "masks" / f"{number}.png")
    words = "--model fcn32s-resnet10t --steps 2 --batch 2 --crop 32,32 --workers 0 --validations 1 --precision fp32"
    assert main(["train", str(root / "data"), "--out", str(root / "run"), *words.split()]) == 0
    return root


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs a command with --json and gives its object."""

    def run(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        values: dict[str, Any] = json.loads(capsys.readouterr().out)
        return values

    return run


FOUR_SCORES = {"pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"}


def test_check_tells_splits_and_classes(project: Path, answer: Callable[..., dict[str, Any]]) -> None:
    values = answer("check", project / "data")
    assert {"errors", "warnings", "splits", "classes"} <= set(values)
    assert values["errors"] == []


def test_train_fills_a_run_folder(project: Path) -> None:
    assert {"args.yaml", "plan.json", "metrics.jsonl", "model", "report.html"} <= set(os.listdir(project / "run"))


def test_train_refuses_a_run_that_exists(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(project / "data"), "--out", str(project / "run"), "--steps", "1"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_evaluate_tells_the_papers_scores(project: Path, answer: Callable[..., dict[str, Any]]) -> None:
    values = answer("evaluate", project / "run", project / "data")
    assert FOUR_SCORES | {"classes", "conventions", "images"} <= set(values)
    assert all(0 <= values[score] <= 1 for score in FOUR_SCORES)
    assert {"name", "iou", "accuracy", "pixels"} <= set(values["classes"][0])


def test_predicted_masks_can_be_scored(project: Path, answer: Callable[..., dict[str, Any]]) -> None:
    outputs = answer("predict", project / "run", project / "data" / "images", "--out", project / "masks")["outputs"]
    assert [set(output) for output in outputs] == [{"input", "mask", "overlay", "seconds"}] * 6
    predicted = project / "predicted"
    predicted.mkdir()
    for output in outputs:
        Path(output["mask"]).rename(predicted / Path(output["mask"]).name)
    scored = answer("score", predicted, project / "data" / "masks")
    assert set(scored) >= FOUR_SCORES
    assert scored["images"] == 6
