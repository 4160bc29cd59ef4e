"""Prediction: any size, any picture, tiled or whole; model folders."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullyconv import artefact, metrics
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet
from fullyconv.models import create
from fullyconv.prediction import Segmentation, Segmenter, files, load, predict_files
from fullyconv.prediction.batches import alike
from fullyconv.prediction.tiles import tiled_scores, whole_scores
from fullyconv.prediction.unfinished import RECORD, Origin, identity, recording, settings_of

LABELS = LabelSet(("sky", "road", "car"))
ARCHITECTURE = {"name": "fcn8s-test_resnet", "num_classes": 3}


RESULT = Segmentation(np.zeros((30, 40), np.uint8), LABELS, torch.zeros(3, 30, 40))


@pytest.fixture
def segmenter() -> Segmenter:
    model = create(**ARCHITECTURE)
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    return Segmenter(model.eval().to(memory_format=torch.channels_last), LABELS, ARCHITECTURE)


def test_the_mask_is_the_argmax_of_the_logits(segmenter):
    image = torch.rand(3, 50, 70)
    logits = segmenter.model(image[None])
    assert np.array_equal(segmenter(image).mask, logits[0].argmax(0).numpy())


@pytest.mark.parametrize("name", ["fcn8s-test_resnet", "fcn4s-resnet10t"])
def test_tiled_prediction_equals_whole(name):
    model = create(name, 3)
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    segmenter = Segmenter(model.eval(), LABELS, {"name": name, "num_classes": 3})
    image = torch.rand(3, 330, 130)
    with torch.inference_mode():
        whole = whole_scores(segmenter.engine, image)
        tiled = tiled_scores(segmenter.engine, image, 96)
    assert torch.allclose(tiled, whole, atol=1e-4 * float(whole.abs().max()))
    assert (segmenter(image, tile=96).mask != segmenter(image, tile="none").mask).mean() < 1e-4


def test_what_a_folder_tells_outlives_loading_and_saving(segmenter, tmp_path):
    facts = {"metrics": {"mean_iou": 0.5}, "imported": {"file": "net.caffemodel"}, "of a later version": [1, 2]}
    Segmenter(segmenter.model, LABELS, ARCHITECTURE, facts).save(tmp_path / "first")
    load(tmp_path / "first").save(tmp_path / "second")
    assert load(tmp_path / "second").facts == facts
    first, second = (json.loads((tmp_path / place / "config.json").read_text()) for place in ("first", "second"))
    assert second == first


def test_every_form_of_a_picture_gives_the_same_mask(segmenter, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "picture.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = segmenter(tensor).mask
    for form in (picture, pixels, pixels / np.float32(255), tmp_path / "picture.png", str(tmp_path / "picture.png")):
        assert np.array_equal(segmenter(form).mask, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 45), (17, 3)])
def test_the_smallest_images_are_segmented(segmenter, size):
    assert segmenter(torch.rand(3, *size)).mask.shape == size


def test_prediction_leaves_the_mode_of_the_model_alone(segmenter):
    segmenter.model.train()
    segmenter(torch.rand(3, 40, 40))
    assert segmenter.model.training


def test_frozen_layers_stay_frozen_and_others_train_on(segmenter):
    layers = list(segmenter.model.train().modules())
    for layer in layers[1::2]:
        layer.training = False
    segmenter(torch.rand(3, 40, 50))
    assert [layer.training for layer in layers] == [number % 2 == 0 for number in range(len(layers))]


def test_further_pictures_of_a_scene_follow_the_image(tmp_path):
    architecture = {"name": "fcn8s-test_resnet", "num_classes": 3, "channels": 4}
    model = create(**architecture).eval()
    for layer in model.score_layers.values():
        nn.init.normal_(layer.weight, std=0.3)
    Segmenter(model, LABELS, architecture, bands=(3, 1)).save(tmp_path / "model")
    segmenter = load(tmp_path / "model")
    color, depth = torch.rand(3, 64, 64), torch.zeros(1, 64, 64)
    result = segmenter(color, more=[depth])
    assert torch.equal(result.image, torch.cat((color, depth)))
    assert np.array_equal(result.mask, segmenter.model(result.image[None])[0].argmax(0).numpy())
    with pytest.raises(FullyconvError, match="SEG-D030"):
        segmenter(color)


@pytest.mark.parametrize(
    ("inputs", "more"),
    [
        ("rgb", "depth/{name}-depth.png"),
        ("rgb/*.png", "{folder}/../depth/{name}-depth.png"),
        ("scenes/{name}/color.png", "scenes/{name}/depth.png"),
        ("./rgb/{name}.p*g", "./depth/{name}-depth.png"),
    ],
)
def test_further_pictures_are_found_by_the_names_of_the_images(tmp_path, monkeypatch, inputs, more):
    places = {
        "rgb/{}.png": "RGB",
        "depth/{}-depth.png": "I;16",
        "scenes/{}/color.png": "RGB",
        "scenes/{}/depth.png": "L",
    }
    for place, mode in places.items():
        for file in (tmp_path / place.format(name) for name in "ab"):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (40, 30)).save(file)
    seen = []
    segmenter = Segmenter(create("fcn8s-test_resnet", 3, channels=4), LABELS, bands=(3, 1))
    monkeypatch.setattr(
        "fullyconv.prediction.segmenter.predict",
        lambda own, image, *, more, tile: seen.append((image, *more)) or RESULT,
    )
    monkeypatch.chdir(tmp_path)
    predict_files(segmenter, [inputs], out="out", more=[more])
    expected = (
        ["scenes/b/color.png", "scenes/b/depth.png"] if "scenes" in inputs else ["rgb/b.png", "depth/b-depth.png"]
    )
    assert [path.resolve().relative_to(tmp_path).as_posix() for path in seen[1]] == expected
    with pytest.raises(FullyconvError, match=r"SEG-D030.*hha/a\.png.*does not exist"):
        predict_files(segmenter, [inputs], out="other", more=["hha/{name}.png"])


def test_saved_and_loaded_models_give_equal_bits(segmenter, tmp_path):
    segmenter.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded.model(image), segmenter.model(image))
    assert loaded.labels == LABELS
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architecture"] == ARCHITECTURE
    assert config["geometry"]["taps"][0] == {
        "stride": "8",
        "start": "0",
        "field": config["geometry"]["taps"][0]["field"],
    }


def test_a_run_folder_loads_its_best_model(segmenter, tmp_path):
    segmenter.save(tmp_path / "run" / "model")
    assert load(tmp_path / "run").labels == LABELS


def test_an_older_model_folder_is_replaced_whole(segmenter, tmp_path):
    segmenter.save(tmp_path / "model")
    segmenter.save(tmp_path / "model")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model"]


def test_a_missing_model_is_named_with_those_nearby(segmenter, tmp_path):
    segmenter.save(tmp_path / "good" / "model")
    with pytest.raises(FullyconvError, match=r"SEG-M010.*good"):
        load(tmp_path / "godo")
    with pytest.raises(FullyconvError, match="SEG-M010"):
        artefact.load(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_truncated_model_is_refused_by_name(segmenter, tmp_path, file):
    segmenter.save(tmp_path / "model")
    damaged = tmp_path / "model" / file
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(FullyconvError, match=f"SEG-M011.*{file}"):
        load(tmp_path / "model")


def test_saving_never_clears_a_folder_of_other_things(segmenter, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FullyconvError, match=r"SEG-M012.*thesis\.tex"):
        segmenter.save(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_network_of_unknown_making_is_not_saved(segmenter, tmp_path):
    with pytest.raises(FullyconvError, match="SEG-M007"):
        Segmenter(segmenter.model, LABELS).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_labels_must_fit_the_network():
    with pytest.raises(FullyconvError, match="SEG-M006"):
        Segmenter(create("fcn8s-test_resnet", 4), LABELS)


def test_files_folders_and_globs_are_predicted(segmenter, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / name)
    Image.new("RGB", (20, 20)).save(tmp_path / "c.png")
    done = predict_files(segmenter, [str(tmp_path / "photos"), str(tmp_path / "*.png")], out=tmp_path / "masks")
    assert [output["input"][-5:] for output in done.to_json()["outputs"]] == ["a.png", "b.jpg", "c.png"[-5:]]
    mask = Image.open(tmp_path / "masks" / "a.png")
    assert (mask.mode, mask.size) == ("P", (40, 30))
    assert mask.getpalette()[:9] == [channel for color in LABELS.colors for channel in color]
    assert (tmp_path / "masks" / "a_overlay.png").exists()
    with pytest.raises(FullyconvError, match="SEG-P003"):
        predict_files(segmenter, [str(tmp_path / "photos")], out=tmp_path / "masks")
    with pytest.raises(FullyconvError, match=r"SEG-P003.*c\.png is a file; give --out"):
        predict_files(segmenter, [str(tmp_path / "photos")], out=tmp_path / "c.png")


def test_what_was_stopped_is_gone_on_with(segmenter, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / f"{name}.png")
    given, seen, out = [str(tmp_path / "*.png")], [], tmp_path / "masks"
    predict = Segmenter.__call__

    def stopping(self, image, **options):
        seen.append(image.stem)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return predict(self, image, **options)

    monkeypatch.setattr(Segmenter, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt, match="stopped after 1 of 3 images; the same"):
        predict_files(segmenter, given, out=out)
    (out / "b.png").touch()  # killed between the mask and its overlay
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "d.png")  # which nobody has seen yet
    outputs = predict_files(segmenter, given, out=out).outputs
    assert seen == ["a", "b", "b", "c", "d"]
    assert [Path(output["mask"]).name for output in outputs] == ["a.png", "b.png", "c.png", "d.png"]
    assert np.asarray(Image.open(out / "b.png")).shape == (30, 40)


def test_what_fails_at_once_leaves_nothing(segmenter, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(FullyconvError, match="SEG-D009"):
        predict_files(segmenter, [str(tmp_path / "a.png")], out=tmp_path / "masks")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_what_was_stopped_is_not_gone_on_with_otherwise(segmenter, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / folder / "a.png")
    (tmp_path / "one" / "b.png").write_text("no picture")
    out = tmp_path / "masks"
    with pytest.raises(FullyconvError, match="SEG-P009"):
        predict_files(segmenter, [str(tmp_path / "one")], out=out)
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another image for a;"):
        predict_files(segmenter, [str(tmp_path / "two")], out=out)
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another precision;"):
        predict_files(segmenter, [str(tmp_path / "one")], out=out, precision="bf16")
    other = Segmenter(create(**ARCHITECTURE), LABELS, ARCHITECTURE)
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another model;"):
        predict_files(other, [str(tmp_path / "one")], out=out)
    alike = Segmenter(segmenter.model, replace(LABELS, colors=LABELS.colors[::-1]), ARCHITECTURE)
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another model;"):
        predict_files(alike, [str(tmp_path / "one")], out=out)
    (out / "c.png").touch()
    Image.new("RGB", (40, 30)).save(tmp_path / "c.png")
    with pytest.raises(FullyconvError, match=r"SEG-P003.*1 file"):
        predict_files(segmenter, [str(tmp_path / "c.png")], out=out)
    Image.new("RGB", (40, 30)).save(tmp_path / "one" / "b.png")
    assert len(predict_files(segmenter, [str(tmp_path / "one")], out=out).outputs) == 2
    assert sorted(file.name for file in out.iterdir()) == ["a.png", "a_overlay.png", "b.png", "b_overlay.png", "c.png"]


def test_numbers_of_other_bits_are_gone_on_with_by_what_computed_them(segmenter, tmp_path):
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    first, second = (
        Origin(settings_of(segmenter.computed_by(runtime, "bf16"), "auto", None)) for runtime in ("packed", "torch")
    )
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another runtime;"):
        first.refuse_other(second, tmp_path, [])
    exact = [Origin(settings_of(segmenter.computed_by(name), "auto", None)) for name in ("packed", "torch")]
    exact[0].refuse_other(exact[1], tmp_path, [])
    other = Origin(settings_of(segmenter, "auto", tmp_path / "a.png"))
    with pytest.raises(FullyconvError, match=r"SEG-P008.*another calibration;"):
        other.refuse_other(exact[0], tmp_path, [])


def test_commands_that_share_a_folder_keep_each_others_record(segmenter, tmp_path):
    for folder, name in (("one", "a"), ("two", "b")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "one" / "c.png").write_text("no picture")
    one, two, out = [str(tmp_path / "one")], [str(tmp_path / "two")], tmp_path / "masks"
    with pytest.raises(FullyconvError, match="SEG-P009"):
        predict_files(segmenter, one, out=out)
    predict_files(segmenter, two, out=out)
    Image.new("RGB", (40, 30)).save(tmp_path / "one" / "c.png")
    assert len(predict_files(segmenter, one, out=out).outputs) == 2
    with recording(out, Origin()):  # a longer one, while another ends
        (out / RECORD).unlink()
    assert not (out / RECORD).exists()


@pytest.mark.parametrize("text", ["", "{}x", '{"later": 1}', "[]"])
def test_a_record_that_cannot_be_read_is_named(segmenter, tmp_path, text):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / RECORD).write_text(text)
    with pytest.raises(FullyconvError, match=rf"SEG-P008.*{RECORD}.*another --out"):
        predict_files(segmenter, [str(tmp_path / "a.png")], out=tmp_path / "masks")


def test_a_folder_is_another_when_what_it_holds_is(tmp_path):
    (tmp_path / "map.zarr" / "c").mkdir(parents=True)
    chunk = tmp_path / "map.zarr" / "c" / "0"
    chunk.write_bytes(b"one")
    before = identity(tmp_path / "map.zarr")
    assert identity(tmp_path / "map.zarr") == before
    chunk.write_bytes(b"two")
    os.utime(chunk, ns=(0, chunk.stat().st_mtime_ns + 10**9))
    assert identity(tmp_path / "map.zarr") != before


def test_a_name_in_a_template_is_found_below_any_folders(segmenter, tmp_path):
    (tmp_path / "p" / "q").mkdir(parents=True)
    for name in ("p/x_rgb1.png", "p/q/y_rgb2.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    named = [name for _, name in files._found([f"{tmp_path}/p/**/{{name}}_rgb[0-9].pn?"])]
    assert sorted(named) == ["x", "y"]


def test_of_a_file_of_several_pages_the_first_is_predicted_and_the_others_named(segmenter, tmp_path, capsys):
    pages = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    predict_files(segmenter, [str(tmp_path / "stack.tif")], out=tmp_path / "masks")
    assert "stack.tif holds 2 pages; only the first" in capsys.readouterr().err


def test_inputs_that_lead_nowhere_are_refused(segmenter, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, told in (("empty", "empty holds no files; give"), ("missing.png", "not exist"), ("*.tif", "no file")):
        with pytest.raises(FullyconvError, match=f"SEG-P001.*{told}"):
            predict_files(segmenter, [str(tmp_path / given)], out=tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_equal_names_are_kept_apart_or_refused(segmenter, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / folder / "1.png")
    done = predict_files(segmenter, [str(tmp_path / "x"), str(tmp_path / "y")], out=tmp_path / "masks")
    assert [output["mask"].rsplit("/", 1)[1] for output in done.to_json()["outputs"]] == ["x_1.png", "y_1.png"]
    Image.new("RGB", (20, 20)).save(tmp_path / "x" / "1.bmp")
    done = predict_files(segmenter, [str(tmp_path / "x")], out=tmp_path / "suffixes")
    assert [Path(output["mask"]).name for output in done.outputs] == ["1_bmp.png", "1_png.png"]
    (tmp_path / "x" / "1.bmp").rename(tmp_path / "x" / "1_overlay.bmp")
    with pytest.raises(FullyconvError, match=r"SEG-P002.*x/1\.png and .*x/1_overlay\.bmp would .* 1_overlay\.png"):
        predict_files(segmenter, [str(tmp_path / "x")], out=tmp_path / "overlays")
    with pytest.raises(FullyconvError, match="SEG-P002"):
        predict_files(segmenter, [str(tmp_path / "x"), str(tmp_path / "x")], out=tmp_path / "twice")


def test_a_tile_off_the_stride_is_refused_with_the_nearest(segmenter, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    for tile, cure in ((500, "use 512"), (1, "use 32")):
        with pytest.raises(FullyconvError, match=f"SEG-P004.*{cure}"):
            predict_files(segmenter, [str(tmp_path / "1.png")], out=tmp_path / "masks", tile=tile)


@pytest.mark.parametrize("batch", [None, 1, 2, 8])
def test_images_of_any_sizes_predicted_together_come_as_alone_and_in_order(segmenter, batch):
    sizes = [(40, 52), (37, 53), (40, 52), (1, 1), (40, 52), (37, 53), (40, 52)]
    pictures = [torch.rand(3, *size) for size in sizes]
    pictures[2] = (255 * pictures[2]).to(torch.uint8)
    together = segmenter.predict_many(iter(pictures), batch=batch)
    for picture, found in zip(pictures, together, strict=True):
        assert np.array_equal(found.mask, segmenter(picture).mask)
        assert torch.equal(found.image, picture)


@pytest.mark.parametrize("batch", [1, 2])
def test_confusions_are_those_of_the_label_maps(segmenter, monkeypatch, batch):
    monkeypatch.setattr("fullyconv.prediction.batches.WHOLE_IMAGE_PIXELS", 52 * 40)  # what is larger is tiled
    pictures = [torch.rand(3, *size) for size in ((40, 52), (37, 53), (61, 45), (40, 52))]
    targets = [torch.randint(0, 4, picture.shape[1:], dtype=torch.uint8) for picture in pictures]
    for target in targets:
        target[target == 3] = segmenter.labels.ignore_index
    found = list(segmenter.confusions(pictures, targets, batch=batch))
    masks = [torch.from_numpy(segmenter(picture).mask) for picture in pictures]
    expected = [metrics.confusion_matrix(*pair, 3) for pair in zip(targets, masks, strict=True)]
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_a_mask_of_another_size_than_its_image_is_refused(segmenter):
    with pytest.raises(FullyconvError, match=r"SEG-E003 .*got 40x52 and 30x52"):
        list(segmenter.confusions([torch.rand(3, 30, 52)], [torch.zeros(40, 52, dtype=torch.uint8)]))


def test_no_more_images_are_read_ahead_than_a_few_batches(segmenter):
    read = []
    pictures = (read.append(number) or torch.rand(3, 20, 20) for number in range(100))
    next(segmenter.predict_many(pictures, batch=1))
    assert len(read) == 1
    next(segmenter.predict_many(pictures, batch=2))
    assert len(read) <= 1 + 8


def test_a_batch_is_no_larger_than_the_largest_whole_image():
    small, large = torch.empty(3, 1000, 1000), torch.empty(3, 1500, 1500)
    assert list(alike([small, large] * 6, 8)) == [[0, 2, 4, 6], [8, 10], [1], [3], [5], [7], [9], [11]]


def test_a_batch_with_scores_that_are_no_numbers_is_refused_as_one_image_is(segmenter):
    with torch.no_grad():
        next(iter(segmenter.model.score_layers.values())).bias[0] = float("nan")
    with pytest.raises(FullyconvError, match="SEG-P005"):
        list(segmenter.predict_many([torch.rand(3, 40, 40)] * 2, batch=2))


def test_what_is_wrong_with_all_images_is_told_as_such(segmenter, tmp_path, capsys):
    for number in range(9):
        Image.fromarray(np.zeros((30, 40, 2), np.uint8), "LA").save(tmp_path / f"{number}.png")
    five = Segmenter(create("fcn8s-test_resnet", 3, channels=5).eval(), LABELS)
    with pytest.raises(FullyconvError, match=r"SEG-D011.*0\.png has . channels, and 5 are to be read"):
        predict_files(five, [str(tmp_path)], out=tmp_path / "out")
    assert capsys.readouterr().err.count("SEG-D011") == files.MOST_FAULTS
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damaged", ["b.png", "b.tif"])
def test_a_damaged_image_does_not_keep_the_others_from_being_predicted(segmenter, tmp_path, capsys, damaged):
    for name in "ac":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    Image.new("RGB", (40, 30)).save(tmp_path / damaged)
    (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:60])
    with pytest.raises(FullyconvError, match=rf"SEG-P009.*1 of 3 images could not be read, such as .*{damaged}"):
        predict_files(segmenter, [str(tmp_path)], out=tmp_path / "out")
    assert "SEG-D009" in capsys.readouterr().err
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        ".unfinished.json",
        *(f"{name}{ending}" for name in "ac" for ending in (".png", "_overlay.png")),
    }
