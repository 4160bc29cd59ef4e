"""Several heads on one trunk: each learns, is scored and is kept as if it were alone, and they share all below it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scenes import save
from torch import nn

from fullyconv import cli
from fullyconv.datasets import open_dataset, with_heads
from fullyconv.errors import FullyconvError
from fullyconv.evaluation import evaluate
from fullyconv.labels import LabelSet
from fullyconv.models import FCN, create
from fullyconv.models.heads import head_of, with_more_classes
from fullyconv.prediction import load, predict_files
from fullyconv.training import checkpoints, train
from fullyconv.training.loading import Decoder
from fullyconv.training.loop import Objective
from fullyconv.training.plan import class_weights_of

TINY = "fcn16s-test_resnet"
TEMPLATES = "?images=images/{split}/{name}.png&masks=%s/{split}/{name}.png"
SHORT = {"model": TINY, "steps": 6, "batch": 4, "crop": (32, 32), "validations": 2, "workers": 0}


def with_random_scores(model: FCN) -> FCN:
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.1)
        nn.init.normal_(layer.bias)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures with two masks each: which of three things, and on which side of the middle."""
    root = tmp_path_factory.mktemp("things")
    random = np.random.default_rng(0)
    for number in range(8):
        split = "train" if number < 6 else "val"
        things = np.repeat(np.repeat(random.integers(0, 3, (3, 4), dtype=np.uint8), 16, 0), 16, 1)
        sides = np.broadcast_to(np.arange(64) >= 32, (48, 64)).astype(np.uint8)
        things[:2] = sides[:, :3] = 255 if number else 0
        image = np.stack([things * 60, things * 20, sides * 100], 2) + random.integers(0, 30, (48, 64, 3), np.uint8)
        for kind, pixels in (("images", image), ("things", things), ("sides", sides)):
            save(root / kind / split / f"{number}.png", pixels.astype(np.uint8))
    return root


@pytest.fixture
def things(data: Path) -> str:
    return f"folder:{data}{TEMPLATES % 'things'}"


@pytest.fixture
def sides(data: Path) -> str:
    return f"folder:{data}{TEMPLATES % 'sides'}"


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "run"
    things, sides = (f"folder:{data}{TEMPLATES % kind}" for kind in ("things", "sides"))
    train(things, also=(sides,), out=folder, **SHORT)
    return folder


def score_layers_of(model):
    return [layer for tower in getattr(model, "towers", [model]) for layer in tower.score_layers.values()]


@pytest.mark.parametrize("options", [{}, {"upscore": "all"}, {"geometry": "caffe"}])
def test_a_head_is_a_network_on_its_block_of_the_scores(options):
    name = "fcn32s-googlenet" if "geometry" in options else "fcn8s-test_resnet"
    model = create(name, 5, **options).eval()
    with_random_scores(model)
    image = torch.rand(1, 3, 40, 50)
    with torch.inference_mode():
        scores = model.scores(image)
        for first, classes in ((0, 3), (3, 2)):
            head = head_of(model, first, classes)
            assert head.num_classes == classes
            assert torch.allclose(head.scores(image), scores[:, first : first + classes], atol=1e-5)


def test_a_head_learns_with_the_network_that_it_is_cut_from():
    model = create(TINY, 5).eval()
    head = head_of(model, 3, 2)
    with_random_scores(model)
    image = torch.rand(1, 3, 40, 50)
    assert torch.allclose(head(image), model(image)[:, 3:], atol=1e-6)
    assert head.num_classes == 2
    assert model.num_classes == 5


@pytest.mark.parametrize("options", [{}, {"upscore": "all"}, {"streams": (1, 2)}])
def test_more_classes_leave_the_old_scores_as_they_were(options):
    model = create(TINY, 3, **options).eval()
    for tower in getattr(model, "towers", [model]):
        with_random_scores(tower)
    wider = with_more_classes(model, 5)
    image = torch.rand(1, 3, 40, 50)
    with torch.inference_mode():
        logits = wider(image)
        assert torch.allclose(logits[:, :3], model(image), rtol=0, atol=1e-6)
        for old, new in zip(score_layers_of(model), score_layers_of(wider), strict=True):
            assert torch.equal(new.weight[:3], old.weight)
            assert torch.equal(new.bias[:3], old.bias)
        assert not logits[:, 3:].any()
        # A new class is upsampled by bilinear kernels: all scores alike stay alike.
        for tower in getattr(wider, "towers", [wider]):
            nn.init.ones_(tower.score_layers["stride32"].bias)
        assert torch.allclose(wider(image)[:, 4], torch.ones(1, 40, 50), atol=1e-5)
    assert wider.state_dict().keys() == create(TINY, 5, **options).state_dict().keys()
    assert model.num_classes == 3


def test_fewer_classes_are_refused():
    with pytest.raises(ValueError, match=r"more than the 3 classes of the network, got 3; head_of"):
        with_more_classes(create(TINY, 3), 3)


def single(both: FCN, block: slice) -> FCN:
    """A network of one head with its own copy of the trunk."""
    alone = create(TINY, block.stop - block.start).eval()
    alone.trunk.load_state_dict(both.trunk.state_dict())
    for mine, theirs in zip(alone.score_layers.values(), both.score_layers.values(), strict=True):
        mine.load_state_dict({name: tensor[block] for name, tensor in theirs.state_dict().items()})
    return alone


def assert_close(gradient: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.allclose(gradient, expected, rtol=0, atol=1e-5 * float(expected.abs().max()) + 1e-12)


def test_two_heads_lose_and_learn_as_two_networks_with_one_trunk():
    """Checklist E10: the losses add up, and every gradient is that of the networks of one head."""
    both = with_random_scores(create(TINY, 5)).eval()
    image, target = torch.rand(2, 3, 48, 40), torch.randint(2, (2, 2, 48, 40))
    target[:, 0] += torch.randint(2, (2, 48, 40))
    target[0, 0, :9] = target[1, 1, :, :5] = 255
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    objective = Objective(both, "cross_entropy", weight, 255, heads=[3, 2])
    losses = objective(image, target) / objective.amount(target)
    losses.sum().backward()
    shared = {name: torch.zeros_like(parameter) for name, parameter in both.trunk.named_parameters()}
    for number, block in enumerate((slice(0, 3), slice(3, 5))):
        alone = single(both, block)
        loss = nn.functional.cross_entropy(alone(image), target[:, number], weight[block], ignore_index=255)
        loss.backward()
        assert torch.allclose(losses[number], loss, rtol=1e-5)
        for mine, theirs in zip(alone.score_layers.parameters(), both.score_layers.parameters(), strict=True):
            assert_close(theirs.grad[block], mine.grad)
        for name, parameter in alone.trunk.named_parameters():
            shared[name] += parameter.grad
    for name, parameter in both.trunk.named_parameters():
        assert_close(parameter.grad, shared[name])


def test_heads_take_masks_by_name_and_split(things, sides):
    dataset = with_heads(open_dataset(things), [sides])
    assert list(dataset.heads) == ["things", "sides"]
    head = dataset.heads["sides"]
    assert [pair.name for pair in head.pairs("val")] == [pair.name for pair in dataset.pairs("val")]
    assert all(pair.mask.parent.parent.name == "sides" for pair in head.pairs("train"))
    assert list(with_heads(open_dataset(things), [f"where={sides}"]).heads) == ["things", "where"]


def test_heads_that_do_not_go_together_are_refused(things, sides, data, tmp_path):
    dataset = open_dataset(things)
    with pytest.raises(
        FullyconvError, match=r"SEG-D031.*two heads would be called 'things'.*'things2=folder:.*\?images="
    ):
        with_heads(dataset, [things])
    strangers = {
        split: tuple(replace(pair, name=f"x{pair.name}") for pair in pairs) for split, pairs in dataset.splits.items()
    }
    with pytest.raises(FullyconvError, match=r"SEG-D031.*no mask for any image.*nearest"):
        with_heads(dataset, [replace(dataset, splits=strangers, name="other")])


def test_an_image_without_a_mask_for_each_head_is_refused(things, sides, tmp_path):
    other = open_dataset(sides)
    fewer = replace(other, splits={**other.splits, "val": other.pairs("val")[1:]})
    with pytest.raises(FullyconvError, match=r"SEG-T004.*1 of 2 images of split val"):
        train(things, also=(fewer,), out=tmp_path / "run", **SHORT)


def test_masks_of_all_heads_share_one_ignore_value(things, sides):
    small, large = open_dataset(things), open_dataset(sides)
    many = LabelSet(tuple(f"class {number}" for number in range(300)), table=((0, 0), (1, 299), (255, 65535)))
    also = [(large.pairs("train"), many)]
    decoder = Decoder(small.pairs("train"), small.labels, (3,), also=also)
    _, masks = decoder[1]
    assert decoder.ignore_index == 65535
    assert set(masks[0].unique().tolist()) <= {0, 1, 2, 65535}
    assert set(masks[1].unique().tolist()) == {0, 299, 65535}
    weights = class_weights_of(decoder, "log")
    assert len(weights) == 3 + 300


def test_a_run_keeps_every_head_with_its_labels(run, data):
    segmenter = load(run)
    assert list(segmenter.heads) == ["things", "sides"]
    assert segmenter.heads["things"] is segmenter
    sizes = {name: (len(head.labels), head.model.num_classes) for name, head in segmenter.heads.items()}
    assert sizes == {"things": (3, 3), "sides": (2, 2)}
    picture = data / "images" / "val" / "7.png"
    whole = json.loads((run / "model" / "config.json").read_text())
    assert whole["architecture"]["num_classes"] == 5
    other = load(run, head="sides")
    assert np.array_equal(other(picture).mask, segmenter.heads["sides"](picture).mask)
    with pytest.raises(FullyconvError, match=r"SEG-M040.*things, sides"):
        load(run, head="thongs")


def test_a_folder_tells_the_classes_of_every_head(run, tmp_path):
    readme = (run / "model" / "README.md").read_text()
    assert readme.startswith(f"# {TINY}, 3 things and 2 sides classes\n")
    assert "Classes of things: " in readme
    assert "Classes of sides: " in readme
    load(run).save(tmp_path / "model")
    alone = (tmp_path / "model" / "README.md").read_text()
    assert alone.startswith(f"# {TINY}, 3 classes\n")
    assert "\nClasses: " in alone


def test_a_head_is_saved_as_a_network_of_its_own(run, data, tmp_path):
    head = load(run).heads["sides"]
    head.save(tmp_path / "model")
    alone = load(tmp_path / "model")
    assert alone.heads == {}
    image = torch.rand(1, 3, 48, 64)
    assert torch.equal(alone.model(image), head.model(image))


def test_a_head_alone_keeps_its_own_scores(run):
    whole = json.loads((run / "model" / "config.json").read_text())["metrics"]
    heads = load(run).heads
    for name, prefix in (("things", ""), ("sides", "sides/")):
        scores = heads[name].facts["metrics"]
        assert scores["mean_iou"] == whole[f"{prefix}mean_iou"]
        assert not any("/" in key for key in scores)


def test_each_head_is_scored_by_its_own_masks(run, things, sides):
    best = json.loads((run / "model" / "config.json").read_text())["metrics"]
    first, second = evaluate(run, things), evaluate(run, sides, head="sides")
    assert first.scores["mean_iou"] == pytest.approx(best["mean_iou"], abs=1e-12)
    assert second.scores["mean_iou"] == pytest.approx(best["sides/mean_iou"], abs=1e-12)
    assert second.labels.names == open_dataset(sides).labels.names
    both = with_heads(open_dataset(things), [sides])
    assert torch.equal(evaluate(run, both, head="sides").confusion, second.confusion)
    assert torch.equal(evaluate(run, both).confusion, first.confusion)
    for folder in ("evaluation", "evaluation-sides"):
        assert (run / folder / "report.html").is_file()
    with pytest.raises(FullyconvError, match="SEG-M040"):
        evaluate(run, sides, head="up")


def test_a_given_model_obeys_head_too(run, sides, data, tmp_path):
    segmenter = load(run)
    for given in (segmenter, segmenter.heads["sides"]):
        report = evaluate(given, sides, head="sides")
        assert torch.equal(report.confusion, evaluate(run, sides, head="sides").confusion)
    inputs = [str(data / "images" / "val" / "7.png")]
    predict_files(segmenter, inputs, out=tmp_path / "masks", head="sides")
    assert np.array_equal(np.array(Image.open(tmp_path / "masks" / "7.png")), segmenter.heads["sides"](inputs[0]).mask)
    with pytest.raises(FullyconvError, match=r"SEG-M040.*given model has no head 'up'.*things, sides"):
        evaluate(segmenter, sides, head="up")
    with pytest.raises(FullyconvError, match=r"SEG-M040.*given model has no head 'up'"):
        predict_files(segmenter, inputs, out=tmp_path / "none", head="up")


def test_each_head_predicts(run, data, tmp_path):
    inputs = [str(data / "images" / "val")]
    predict_files(run, inputs, out=tmp_path / "things")
    predict_files(run, inputs, out=tmp_path / "sides", head="sides")
    masks = [np.array(Image.open(tmp_path / kind / "7.png")) for kind in ("things", "sides")]
    assert np.array_equal(masks[1], load(run, head="sides")(data / "images" / "val" / "7.png").mask)
    assert masks[0].shape == masks[1].shape == (48, 64)


def test_an_interrupted_run_of_two_heads_resumes_to_the_same_bits(run, things, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    checkpoints.files(again / "checkpoints")[-1].unlink()
    assert [file.stem for file in checkpoints.files(again / "checkpoints")] == ["step-0000003"]
    (again / "last" / "model.safetensors").unlink()
    (again / "result.json").unlink()
    train(things, out=again, resume=True, workers=1, report=False)  # its plan knows of the other head
    one, other = (load_file(folder / "last" / "model.safetensors") for folder in (run, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_semantic_and_geometric_heads_are_trained_scored_and_drawn_by_commands(data_root, tmp_path, capsys):
    root = data_root / "labelmefacade"
    names = sorted(path.stem for path in (root / "images").glob("spatial_envelope*.jpg"))[:9]
    for kind in ("semantic", "geometric"):
        lines = [f"{root}/images/{name}.jpg,{root}/derived/{kind}/{name}.png" for name in names]
        (tmp_path / f"{kind}.csv").write_text("\n".join(["image,mask", *lines]))
    run, semantic, geometric = (str(tmp_path / name) for name in ("run", "semantic.csv", "geometric.csv"))
    short = ["--model", TINY, "--steps", "2", "--batch", "2", "--crop", "64,64", "--workers", "0", "--no-report"]
    assert cli.main(["train", semantic, "--also", geometric, "--out", run, *short, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"]
    assert cli.main(["evaluate", run, geometric, "--head", "geometric", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mean_iou"] == pytest.approx(best["geometric/mean_iou"])
    assert len(report["classes"]) == 3
    photo = f"{root}/images/{names[0]}.jpg"
    assert cli.main(["predict", run, photo, "--head", "geometric", "--out", str(tmp_path / "masks")]) == 0
    assert np.array(Image.open(tmp_path / "masks" / f"{names[0]}.png")).max() < 3


def test_a_given_model_of_one_head_is_not_trained_on_two(run, things, sides, tmp_path):
    with pytest.raises(FullyconvError, match=r"SEG-M006.*2 heads \(things, sides\)"):
        train(things, model=load(run).heads["things"], also=(sides,), out=tmp_path / "run", steps=1)
