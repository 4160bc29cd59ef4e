"""The scores, against hand-made matrices, the paper's formulas, scikit-learn and torchmetrics."""

import math
from typing import get_args

import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score, recall_score
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from fullyconv import metrics
from fullyconv.errors import FAULTS, FullyconvError
from fullyconv.metrics import confusion_matrix

# Truth: 4, 3 and 0 pixels; class 2 is only predicted, class 3 in neither.
HAND = torch.tensor([[3, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def random_masks(classes: int = 6, shape: tuple[int, ...] = (3, 21, 17)) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.randint(0, classes, shape, dtype=torch.uint8)
    pred = torch.where(torch.rand(shape) < 0.6, target, torch.randint(0, classes, shape, dtype=torch.uint8))
    return target.masked_fill(torch.rand(shape) < 0.1, 255), pred


def smooth_masks(classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.arange(classes, dtype=torch.uint8).repeat_interleave(37)
    return target, target.roll(5)


def test_rows_are_targets_and_columns_are_predictions() -> None:
    confusion = confusion_matrix(torch.tensor([0, 0, 1, 255]), torch.tensor([0, 1, 1, 0]), 2)
    assert confusion.tolist() == [[1, 1], [0, 1]]
    assert confusion.dtype == torch.int64


def test_the_four_scores_of_a_hand_made_matrix() -> None:
    values = metrics.scores(HAND)
    assert values["pixel_accuracy"] == pytest.approx(5 / 7, abs=1e-12, rel=0)
    assert values["mean_accuracy"] == pytest.approx((3 / 4 + 2 / 3) / 2, abs=1e-12, rel=0)
    assert values["mean_iou"] == pytest.approx((3 / 4 + 2 / 4 + 0) / 3, abs=1e-12, rel=0)
    assert values["frequency_weighted_iou"] == pytest.approx((4 * 3 / 4 + 3 * 2 / 4) / 7, abs=1e-12, rel=0)


def test_classes_without_pixels_have_no_score() -> None:
    assert metrics.iou(HAND).tolist() == pytest.approx([3 / 4, 2 / 4, 0, math.nan], nan_ok=True)
    assert metrics.accuracy(HAND).tolist() == pytest.approx([3 / 4, 2 / 3, math.nan, math.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("pred", "mean_iou", "mean_accuracy"), [([0, 0, 1, 0], 7 / 12, 0.75), ([0, 0, 1, 2], 0.5, 0.75)]
)
def test_scores_equal_what_the_authors_script_prints(pred: list[int], mean_iou: float, mean_accuracy: float) -> None:
    confusion = confusion_matrix(torch.tensor([0, 0, 1, 1]), torch.tensor(pred), 3)
    assert metrics.mean_iou(confusion) == pytest.approx(mean_iou, abs=1e-12, rel=0)
    assert metrics.mean_accuracy(confusion) == pytest.approx(mean_accuracy, abs=1e-12, rel=0)


def test_absent_classes_follow_the_policy_asked_for() -> None:
    total = 3 / 4 + 2 / 4
    assert metrics.mean_iou(HAND, absent="paper") == pytest.approx(total / 3, abs=1e-12, rel=0)
    assert metrics.mean_iou(HAND, absent="target") == pytest.approx(total / 2, abs=1e-12, rel=0)
    assert metrics.mean_iou(HAND, absent="zero") == pytest.approx(total / 4, abs=1e-12, rel=0)
    assert metrics.mean_iou(HAND, absent="one") == pytest.approx((total + 1) / 4, abs=1e-12, rel=0)
    assert math.isnan(metrics.mean_iou(HAND, absent="nan"))


@pytest.mark.parametrize(
    ("pred", "expected"),
    [
        # Class 2 is in neither; classes 0 and 1 have 2/3 and 1/2.
        ([0, 0, 1, 0], {"paper": 7 / 12, "target": 7 / 12, "zero": 7 / 18, "one": 13 / 18, "nan": math.nan}),
        # Class 2 is only predicted; classes 0 and 1 have 1 and 1/2.
        ([0, 0, 1, 2], {"paper": 1 / 2, "target": 3 / 4, "zero": 1 / 2, "one": 1 / 2, "nan": 1 / 2}),
    ],
)
def test_policies_for_absent_classes_on_four_pixels(pred: list[int], expected: dict[str, float]) -> None:
    confusion = confusion_matrix(torch.tensor([0, 0, 1, 1]), torch.tensor(pred), 3)
    found = {policy: metrics.mean_iou(confusion, absent=policy) for policy in get_args(metrics.Absent)}
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_sift_flow_is_scored_on_the_classes_of_its_test_set() -> None:
    present = torch.tensor([index for index in range(33) if index not in (8, 10, 15)])  # cow, desert, moon are not
    pred = present.clone()
    pred[0] = 8  # an awning taken for a cow
    confusion = confusion_matrix(present, pred, 33)
    assert metrics.conventions(confusion)["paper_sift_flow"] == pytest.approx(29 / 30, abs=1e-12, rel=0)
    assert metrics.mean_accuracy(confusion) == pytest.approx(29 / 30, abs=1e-12, rel=0)
    assert metrics.mean_iou(confusion) == pytest.approx(29 / 31, abs=1e-12, rel=0)


def test_conventions_of_other_programs_differ_on_one_matrix() -> None:
    values = metrics.conventions(HAND)
    total = 3 / 4 + 2 / 4
    assert (
        values["paper"]
        == values["pytorch_fcn"]
        == values["mmsegmentation"]
        == pytest.approx(total / 3, abs=1e-12, rel=0)
    )
    assert values["detectron2"] == pytest.approx(total / 2, abs=1e-12, rel=0)
    assert values["smp_macro"] == pytest.approx((total + 1) / 4, abs=1e-12, rel=0)
    assert values["segnet"] == values["paddleseg"] == pytest.approx(total / 4, abs=1e-12, rel=0)
    assert values["smp_micro"] == pytest.approx(5 / 9, abs=1e-12, rel=0)
    assert math.isnan(values["torchvision"])


def test_every_convention_is_explained() -> None:
    counts = metrics.class_counts(HAND)[None]
    assert metrics.conventions(HAND, counts).keys() == metrics.CONVENTIONS.keys()


def test_uint8_path_counts_as_the_general_path() -> None:
    for target, pred in (random_masks(), smooth_masks(), random_masks(shape=(7,)), random_masks(shape=(0, 4))):
        assert torch.equal(confusion_matrix(target, pred, 6), confusion_matrix(target.long(), pred.int(), 6))


def test_views_into_larger_masks_are_counted_alike() -> None:
    target, pred = random_masks()
    views = target[1:, 3:, ::2], pred[1:, 3:, ::2]
    assert torch.equal(confusion_matrix(*views, 6), confusion_matrix(*(view.contiguous() for view in views), 6))
    flat = target.flatten()[1:], pred.flatten()[1:]
    assert torch.equal(confusion_matrix(*flat, 6), confusion_matrix(*(view.long() for view in flat), 6))


def test_counts_equal_scikit_learn_and_torchmetrics() -> None:
    target, pred = random_masks()
    confusion = confusion_matrix(target, pred, 6)
    counted = target != 255
    assert confusion.tolist() == sklearn_confusion(target[counted], pred[counted], labels=range(6)).tolist()
    peer = MulticlassConfusionMatrix(6, ignore_index=255)
    assert torch.equal(confusion, peer(pred.long(), target.long()))


def test_scores_equal_scikit_learn_and_torchmetrics() -> None:
    target, pred = random_masks()
    confusion = confusion_matrix(target, pred, 7)  # class 6 is in neither
    truth, guess = target[target != 255], pred[target != 255]
    assert metrics.mean_iou(confusion) == pytest.approx(jaccard_score(truth, guess, average="macro"))
    assert metrics.frequency_weighted_iou(confusion) == pytest.approx(jaccard_score(truth, guess, average="weighted"))
    assert metrics.mean_accuracy(confusion) == pytest.approx(recall_score(truth, guess, average="macro"))
    assert metrics.conventions(confusion)["smp_micro"] == pytest.approx(jaccard_score(truth, guess, average="micro"))
    peer = MulticlassJaccardIndex(7, ignore_index=255)
    assert metrics.conventions(confusion)["torchmetrics_jaccard"] == pytest.approx(
        float(peer(pred.long(), target.long())), rel=1e-6
    )


def test_mean_over_images_equals_torchmetrics() -> None:
    target = torch.randint(0, 5, (4, 3, 4))
    pred = torch.randint(0, 5, (4, 3, 4))
    per_image = torch.stack(
        [metrics.class_counts(confusion_matrix(*pair, 6)) for pair in zip(target, pred, strict=True)]
    )
    peer = MeanIoU(6, input_format="index")
    peer.update(pred, target)
    ours = metrics.conventions(confusion_matrix(target, pred, 6), per_image)["torchmetrics_mean_iou"]
    assert ours == pytest.approx(float(peer.compute()), rel=1e-6)


def test_streaming_equals_all_at_once_in_any_order() -> None:
    target, pred = random_masks()
    parts = [confusion_matrix(target[i], pred[i], 6) for i in (2, 0, 1)]
    assert torch.equal(sum(parts, torch.zeros(6, 6, dtype=torch.int64)), confusion_matrix(target, pred, 6))


def test_counts_beyond_int32_stay_exact() -> None:
    huge = torch.tensor([[3 * 2**40 + 1, 2**40], [0, 2**33]])
    assert metrics.pixel_accuracy(huge) == (3 * 2**40 + 1 + 2**33) / (4 * 2**40 + 1 + 2**33)
    assert (huge + huge)[0, 0] == 6 * 2**40 + 2


def test_a_permutation_of_classes_permutes_the_scores() -> None:
    target, pred = random_masks()
    order = torch.randperm(6)
    renamed = torch.full((256,), 255, dtype=torch.uint8)
    renamed[order] = torch.arange(6, dtype=torch.uint8)
    before = confusion_matrix(target, pred, 6)
    after = confusion_matrix(renamed[target.long()], renamed[pred.long()], 6)
    assert torch.equal(after, before[order][:, order])
    assert torch.equal(metrics.iou(after), metrics.iou(before)[order])
    assert metrics.scores(after) == pytest.approx(metrics.scores(before))


def test_a_perfect_prediction_scores_one_under_every_convention() -> None:
    target = torch.arange(4, dtype=torch.uint8).repeat(8)
    confusion = confusion_matrix(target, target, 4)
    values = metrics.scores(confusion) | metrics.conventions(confusion, metrics.class_counts(confusion)[None])
    assert set(values.values()) == {1.0}


def test_no_counted_pixel_gives_no_score() -> None:
    confusion = confusion_matrix(torch.full((2, 2), 255), torch.zeros(2, 2).long(), 3)
    assert all(math.isnan(value) for value in metrics.scores(confusion).values())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.uint16])
def test_an_illegal_truth_is_refused_not_dropped(dtype: torch.dtype) -> None:
    target = torch.tensor([[0, 7], [7, 1]]).to(dtype)
    with pytest.raises(FullyconvError, match=r"SEG-E001 .* 7 \(2 pixels\); expected 0 to 2, or 255"):
        confusion_matrix(target, torch.zeros(2, 2, dtype=dtype), 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_an_illegal_prediction_is_refused_not_dropped(dtype: torch.dtype) -> None:
    pred = torch.tensor([0, 0, 1, 3]).to(dtype)
    with pytest.raises(FullyconvError, match=r"SEG-E002 .* 3 \(1 pixel\); expected 0 to 2"):
        confusion_matrix(torch.tensor([0, 0, 1, 1]).to(dtype), pred, 3)


def test_a_negative_label_is_refused() -> None:
    with pytest.raises(FullyconvError, match="SEG-E001"):
        confusion_matrix(torch.tensor([0, -1]), torch.tensor([0, 0]), 2)


def test_a_prediction_is_free_where_the_truth_is_ignored() -> None:
    target, pred = torch.tensor([0, 255], dtype=torch.uint8), torch.tensor([0, 255], dtype=torch.uint8)
    assert confusion_matrix(target, pred, 2).tolist() == [[1, 0], [0, 0]]


def test_an_ignored_class_index_is_not_counted() -> None:
    target, pred = torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0])
    expected = [[0, 0], [1, 1]]
    assert confusion_matrix(target, pred, 2, ignore_index=0).tolist() == expected
    assert confusion_matrix(target.byte(), pred.byte(), 2, ignore_index=0).tolist() == expected


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(FullyconvError, match=r"SEG-E003 .* 2x3 and 3x2"):
        confusion_matrix(torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), 2)


def test_the_codes_are_explained() -> None:
    assert {"SEG-E001", "SEG-E002", "SEG-E003"} <= FAULTS.keys()


def test_the_interval_holds_the_score_and_narrows_with_more_images() -> None:
    def per_image(images: int) -> torch.Tensor:
        masks = [random_masks(3, (8, 8)) for _ in range(images)]
        return torch.stack([metrics.class_counts(confusion_matrix(*pair, 3)) for pair in masks])

    few, many = per_image(10), per_image(160)
    widths = []
    for counts in (few, many):
        low, high = metrics.mean_iou_interval(counts)
        assert low <= float(metrics.iou_of_counts(counts.sum(0)).nanmean()) <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert metrics.mean_iou_interval(few) == metrics.mean_iou_interval(few)


def test_the_interval_of_equal_images_is_a_point() -> None:
    counts = metrics.class_counts(HAND).expand(5, 3, 4)
    assert metrics.mean_iou_interval(counts) == pytest.approx((metrics.mean_iou(HAND),) * 2)
    assert all(math.isnan(end) for end in metrics.mean_iou_interval(counts[:0]))
