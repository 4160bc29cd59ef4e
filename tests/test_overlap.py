"""Shared images of two sets: by content, and by name where names are those of the photographs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import save

from fullyconv.datasets import Dataset, Pair, open_dataset
from fullyconv.datasets.overlap import HASH_BYTES, Seen, same_collection, shared, validated_on
from fullyconv.datasets.voc import LABELS
from fullyconv.errors import FullyconvError
from fullyconv.labels import LabelSet


def pair(file: Path, seed: int) -> Pair:
    """An image of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return Pair(file.stem, file, file)


def dataset(layout: str, labels: LabelSet = LABELS, **splits: tuple[Pair, ...]) -> Dataset:
    return Dataset(layout, Path(layout), labels, splits)


@pytest.fixture
def sbd(tmp_path: Path) -> Dataset:
    return dataset("sbd", train=(pair(tmp_path / "img" / "2008_1.png", 1), pair(tmp_path / "img" / "2008_2.png", 2)))


@pytest.fixture
def voc(tmp_path: Path) -> Dataset:
    """Of its three images the first is one of SBD's as it is, the second one of them written anew."""
    home = tmp_path / "JPEGImages"
    same, again, other = (pair(home / f"2008_{number}.png", seed) for number, seed in ((1, 1), (2, 20), (3, 3)))
    return dataset("voc", val=(same, again, other))


def names(pairs: list[tuple[Pair, Pair]]) -> list[str]:
    return [other.name for _, other in pairs]


def test_files_of_equal_content_are_shared_under_any_name(tmp_path: Path) -> None:
    first = [pair(tmp_path / "a.png", 0), pair(tmp_path / "b.png", 1)]
    second = [pair(tmp_path / "x" / "b.png", 2), pair(tmp_path / "x" / "c.png", 1)]
    assert shared(first, second) == [(first[1], second[1])]
    assert shared(first, second, by_name=True) == [(first[1], second[0]), (first[1], second[1])]


def test_files_of_equal_length_and_beginning_are_told_apart(tmp_path: Path) -> None:
    pairs = [pair(tmp_path / f"{name}.png", 0) for name in "abc"]
    for each, end in zip(pairs, "xyx", strict=True):
        each.image.write_bytes(each.image.read_bytes() + bytes(70000) + end.encode())
    assert names(shared(pairs[:1], pairs[1:])) == ["c"]


def test_names_count_within_a_collection_only(sbd: Dataset, voc: Dataset) -> None:
    assert same_collection(sbd, voc)
    assert not same_collection(dataset("folder"), dataset("folder"))
    assert not same_collection(sbd, dataset("camvid"))


@pytest.mark.parametrize(("layout", "expected"), [("voc", ["2008_1", "2008_2"]), ("folder", ["2008_1"])])
def test_a_model_knows_the_images_it_was_trained_on(
    sbd: Dataset, voc: Dataset, layout: str, expected: list[str]
) -> None:
    seen = Seen.from_json(json.loads(json.dumps(Seen.of(sbd).to_json())))
    assert seen == Seen.of(sbd)
    assert [pair.name for pair in seen.among(dataset(layout, val=voc.pairs("val")), "val")] == expected


def test_what_a_model_keeps_of_an_image_is_ten_bytes(sbd: Dataset) -> None:
    kept = Seen.of(sbd).to_json()
    assert len(kept["names"]) == len(kept["contents"]) == 2 * 2 * HASH_BYTES


def test_names_of_a_folder_are_not_kept(sbd: Dataset) -> None:
    seen = Seen.of(dataset("folder", train=sbd.pairs("train")))
    assert (seen.names, len(seen.contents)) == (frozenset(), 2)


def test_validation_on_images_that_are_trained_on_is_refused(sbd: Dataset, voc: Dataset) -> None:
    with pytest.raises(FullyconvError, match=r"SEG-T020  2 of the 3 .* such as 2008_1, .*voc=VOC2011 .*seg11valid"):
        validated_on(sbd, voc)


def test_validation_on_other_images_takes_the_place_of_ones_own(sbd: Dataset, voc: Dataset) -> None:
    unseen = dataset("voc", val=voc.pairs("val")[2:])
    both = validated_on(sbd, unseen)
    assert (both.pairs("train"), both.pairs("val")) == (sbd.pairs("train"), unseen.pairs("val"))


def test_a_val_that_nobody_made_is_neither_kept_from_training_nor_all_that_is_validated_on(tmp_path: Path) -> None:
    counts = {"a": 10, "b": 8}
    for seed, (name, count) in enumerate(counts.items()):
        for number in range(count):
            save(tmp_path / name / "images" / f"{number}.png", np.full((4, 4, 3), 100 * seed + number, np.uint8))
            save(tmp_path / name / "masks" / f"{number}.png", np.eye(4, dtype=np.uint8))
    first, second = (open_dataset(tmp_path / name) for name in counts)
    assert first.val_from_train
    assert len(first.pairs("train")) < 10
    both = validated_on(first, second)
    assert {split: len(pairs) for split, pairs in both.splits.items()} == {"train": 10, "val": 8}
    assert both.notes[-1] == f"10 pairs of {tmp_path / 'a'} are trained on, 8 of {tmp_path / 'b'} are validated on"
    assert not any("were taken from train" in note for note in both.notes)
    with pytest.raises(FullyconvError, match="SEG-T020  10 of the 10 images"):
        validated_on(first, replace(second, splits=first.undivided("val").splits, val_from_train=False))


def test_validation_on_other_classes_is_refused(sbd: Dataset) -> None:
    other = replace(dataset("folder", LabelSet(("cat", "dog")), val=()), given="folder:pets?val=more")
    with pytest.raises(
        FullyconvError,
        match=r"SEG-T021 .*folder:pets\?val=more .*cat, dog, and those to train on are background, .* and 16 more",
    ):
        validated_on(sbd, other)


def test_heads_keep_their_own_masks(sbd: Dataset, voc: Dataset) -> None:
    geometric = LabelSet(("flat", "upright"))
    first = Dataset("sbd", Path(), LABELS, sbd.splits, also=(dataset("sbd", geometric, **sbd.splits),))
    unseen = voc.pairs("val")[2:]
    flat = tuple(Pair(each.name, each.image, each.image.with_name("flat.png")) for each in unseen)
    second = Dataset("voc", Path(), LABELS, {"val": unseen}, also=(dataset("voc", geometric, val=flat),))
    assert validated_on(first, second).also[0].pairs("val") == flat
    with pytest.raises(FullyconvError, match="SEG-T021"):
        validated_on(first, dataset("voc", val=unseen))
