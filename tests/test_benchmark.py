"""Side by side with the peers: that both sides compute the same, and that what is told of them is true."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from thin import make_thin

from fullyconv import cli, timing
from fullyconv.benchmark import command, inputs, peers
from fullyconv.benchmark.command import Listing, benchmark
from fullyconv.benchmark.comparing import Row, Target, likeness, observed
from fullyconv.benchmark.machine import Cost, Machine
from fullyconv.benchmark.nets import centred
from fullyconv.benchmark.report import Report, Skipped, page, read
from fullyconv.benchmark.suites import SUITES
from fullyconv.benchmark.suites.vgg import reachable_operations
from fullyconv.errors import FullyconvError

MACHINE = Machine("a machine", {"float32": 2e9, "bfloat16": 4e9, "int8": 8e9}, copied=1e9)


def made(work: str, *, ratio: float = 2.0, target: Target | None = None, suite: str = "loss") -> Row:
    return Row(suite, work, "a peer", 10.0, 10.0 * ratio, ratio, (1.5, 2.5), (1.0, 50.0), Cost(4e6, 8e6), target=target)


@pytest.fixture
def thin_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    make_thin(monkeypatch, "vgg16")


def test_without_a_name_the_suites_are_listed() -> None:
    listing = benchmark()
    assert isinstance(listing, Listing)
    assert [each["name"] for each in listing.to_json()["suites"]] == [
        *("upsample", "loss", "fcn8s-vgg16", "backbones", "train", "tiles", "metrics", "data")
    ]
    assert all(f"{name} " in str(listing) for name in SUITES)


def test_an_unknown_suite_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(FullyconvError, match=r"SEG-B001.*no suite upsampel; did you mean upsample\?"):
        benchmark("upsampel")


def test_works_that_no_suite_holds_are_refused_with_those_that_it_holds() -> None:
    with pytest.raises(FullyconvError, match=r"SEG-B001.*no work of loss is called 'K=12'.*loss and gradient, K=11"):
        benchmark("loss", only="K=12", quick=True)


def test_rows_have_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", "metrics", "--quick", "--repeats", "2", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {"suite", "rows", "machine"} <= set(values)
    assert values["suite"] == "metrics"
    for row in values["rows"]:
        assert {"work", "ours", "peer", "ratio", "spread", "memory", "peak_fraction"} <= set(row)
        assert row["spread"][0] <= row["ratio"] <= row["spread"][1]
        assert row["ours"] > 0


@pytest.mark.parametrize(
    ("suite", "only"),
    [
        ("upsample", None),
        ("loss", None),
        ("fcn8s-vgg16", "logits"),
        ("train", "our net"),
        ("tiles", "the whole"),
        ("metrics", None),
    ],
)
def test_ours_and_the_peer_give_the_same(thin_vgg: None, suite: str, only: str | None) -> None:
    report = benchmark(suite, only=only, quick=True, repeats=1)
    assert isinstance(report, Report)
    assert report.rows or report.skipped
    for row in report.rows:
        assert row.agreement is not None or row.difference is not None
        assert row.agreement is None or row.agreement > 0.999
        assert row.difference is None or row.difference < 1e-4


@pytest.mark.parametrize("position", [0, 1], ids=["fp32", "int8"])
def test_networks_over_one_backbone_label_the_same_pixels(position: int) -> None:
    work = SUITES["backbones"](True)[position]
    missing = [package for package in work.needs if command.find_spec(package) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    sides = work.sides()
    assert sides.ours().shape == sides.peer().shape == (1, 64, 64)


def test_samples_of_both_kinds_have_one_size() -> None:
    for work in SUITES["data"](True):
        sides = work.sides()
        ours, theirs = sides.ours()[0], sides.peer()[0]
        assert ours.image.shape == theirs[0].shape == (3, 32, 32)
        assert ours.masks.shape == theirs[1].shape == (1, 32, 32)
        sides.close()


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda package: None)
    report = benchmark("metrics", quick=True, repeats=1)
    assert isinstance(report, Report)
    assert [row.against for row in report.rows] == ["numpy bincount of int64 masks, as in pytorch-fcn"]
    assert [each.missing for each in report.skipped] == [("torchmetrics",)]
    assert "skipped, torchmetrics, int64 masks is not installed" in str(report)


def test_threads_are_as_many_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    report = benchmark("metrics", only="numpy", quick=True, repeats=1, threads=2)
    assert isinstance(report, Report)
    assert "2 used" in report.machine.name
    assert torch.get_num_threads() == 1


def test_a_limit_is_what_takes_longer_of_operations_and_bytes() -> None:
    assert Cost(4e6, 1e6).milliseconds(MACHINE) == 2
    assert Cost(4e6, 8e6).milliseconds(MACHINE) == 8
    assert Cost(8e6, precision="int8").milliseconds(MACHINE) == 1


def test_a_target_is_met_by_time_and_memory() -> None:
    assert made("no target").met is None
    assert made("time", target=Target(2.0)).met
    assert not made("time", target=Target(2.1)).met
    assert made("memory", target=Target(2.0, memory=1 / 50)).met
    assert not made("memory", target=Target(2.0, memory=1 / 51)).met
    assert not made("megabytes", target=Target(2.0, megabytes=0.9)).met


def test_memory_is_what_a_call_needs_at_once() -> None:
    _, found = observed(lambda: torch.ones(2**23) + 1)  # two arrays of 32 MB
    assert found is None or 60 < found < 72


def test_likeness_counts_labels_and_measures_other_numbers() -> None:
    assert likeness(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == (0.75, None)
    assert likeness(torch.tensor([1.0, -4.0]), torch.tensor([1.0, -5.0])) == (None, pytest.approx(0.2))


def test_operations_are_those_that_the_image_reaches(thin_vgg: None) -> None:
    image = inputs.image(1, (40, 40))
    network = peers.PytorchFCN8s(centred("fcn8s-vgg16", 3, image, geometry="caffe"))
    found = 0

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal found
        assert isinstance(layer, torch.nn.Conv2d)
        found += 2 * layer.weight.numel() * int(output[0, 0].isnan().sum())

    for part in (network.to_pool3, network.to_pool4, network.to_fc7):
        for layer in part.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(count)
    network(torch.full_like(image, torch.nan))
    assert reachable_operations(network, 40) == found


def test_rows_measured_again_replace_the_earlier_ones_and_others_stay() -> None:
    earlier = Report("all", (made("one"), made("two"), made("labels", suite="metrics")), MACHINE)
    faster = replace(MACHINE, copied=2e9)
    again = Report("loss", (made("two", ratio=3.0),), faster)
    joined = again.joined(earlier)
    assert [(row.work, row.ratio) for row in joined.rows] == [("one", 2.0), ("two", 3.0), ("labels", 2.0)]
    assert (joined.suite, joined.machine.copied) == ("all", 2e9)


def test_what_was_skipped_and_is_measured_now_is_no_longer_skipped() -> None:
    skipped = tuple(Skipped("loss", work, "a peer", ("a package",)) for work in ("one", "two"))
    joined = Report("loss", (made("one"),), MACHINE).joined(Report("loss", (), MACHINE, skipped))
    assert [each.work for each in joined.skipped] == ["two"]
    assert [each.work for each in Report("loss", (), MACHINE, skipped).joined(joined).skipped] == ["two"]


def test_a_stop_while_a_report_is_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(path: Path, text: str, **options: str) -> int:
        with path.open("w") as opened:
            opened.write(text[:10])
        raise KeyboardInterrupt

    earlier = Report("loss", (), MACHINE)
    earlier.write(tmp_path / "speed.json")
    monkeypatch.setattr(Path, "write_text", stopped)
    with pytest.raises(KeyboardInterrupt):
        Report("loss", (made("one"),), MACHINE).write(tmp_path / "speed.json")
    assert read(tmp_path / "speed.json") == earlier


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = Report("loss", (made("one", target=Target(2.0, 4.0, memory=1 / 40)), made("two")), MACHINE)
    report.write(tmp_path / "speed.json")
    assert read(tmp_path / "speed.json") == report
    assert (tmp_path / "speed.md").read_text() == page(report, tmp_path / "speed.json")
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_the_page_tells_ratio_spread_limit_and_target() -> None:
    told = page(Report("loss", (made("one", target=Target(2.0, 4.0, memory=1 / 50)),), MACHINE), Path("speed.json"))
    assert "| one | a peer | 10.0 | 20.0 | **2x (1.5 to 2.5)** | 2x / 4x, 1/50 MB | 1 / 50.0 | 8 (80 %) |" in told
    assert "Of 1 rows with a target, 1 reach it." in told


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (None, "speed.txt", "must end in .json"),
        ("{}", "speed.json", "is there and no benchmark"),
        (json.dumps(Report("loss", (), MACHINE).to_json()), "speed.json", "was measured on a machine, this is"),
    ],
)
def test_files_that_cannot_take_the_rows_are_refused(tmp_path: Path, text: str | None, name: str, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(FullyconvError, match=f"SEG-B002.*{said}"):
        benchmark("loss", quick=True, out=tmp_path / name)


def test_small_sizes_are_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    for quick in (False, True):
        report = Report("loss", (made("one"),), MACHINE, quick=quick)
        assert ("the small ones of `--quick`" in page(report, file)) == quick
        report.joined(report).write(file)
        assert read(file) == report


def test_small_and_full_sizes_share_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "machine", lambda: MACHINE.name)
    file = tmp_path / "speed.json"
    for quick, told in ((False, "full sizes, not those of --quick"), (True, "the small sizes of --quick")):
        Report("loss", (made("one"),), MACHINE, quick=quick).write(file)
        with pytest.raises(FullyconvError, match=f"SEG-B002.*holds {told}"):
            benchmark("loss", quick=not quick, out=file)


def test_a_place_that_takes_no_page_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(command, "measured")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        benchmark("loss", quick=True, out=tmp_path / "file" / "speed.json")


def test_the_page_names_what_was_not_measured() -> None:
    works = SUITES["metrics"](False)
    rows = tuple(replace(made(work.name, suite="metrics"), against=work.peer) for work in works[1:])
    assert f"Not measured here:\n\n* {works[0].name}, against {works[0].peer}\n" in page(
        Report("metrics", rows, MACHINE), Path("speed.json")
    )


def test_the_page_of_the_documentation_is_what_its_measurements_give() -> None:
    file = Path(__file__).parents[1] / "docs" / "speed.json"  # `read(file).write(file)` writes the page again
    assert file.with_suffix(".md").read_text(encoding="utf-8") == page(read(file), file)
