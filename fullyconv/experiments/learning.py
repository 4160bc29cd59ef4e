"""How nets are trained (section 4.3): sampling of the loss, augmentation, fine-tuning."""

import statistics
from collections.abc import Sequence

from fullyconv.experiments.findings import Findings, Row, compare, conclude, mean_row
from fullyconv.experiments.runs import Trial
from fullyconv.experiments.trials import (
    carry_out,
    conditions,
    loss_curves,
    scale,
    score_rows,
    time_rows,
)
from fullyconv.experiments.warmup import start_of
from fullyconv.experiments.workbench import Workbench

KEPT = {"all pixels": 1.0, "1/2 of the pixels": 0.5, "1/4 of the pixels": 0.25}
WHOLE_BATCH = 4  # of 1 / p times as many images, so that a batch has as many pixels at any p
LAST = 0.2  # of the loss curve, whose mean is the final loss


def loss_sampling(bench: Workbench) -> Findings:
    """Figure 5: a net trained on all pixels, on half and on a quarter, with as many pixels in every batch."""
    start, told = start_of(bench, bench.dataset)
    net = f"fcn32s-{bench.settings.trunk}"
    trials = [
        Trial(label, net, bench.dataset, start, {"sampling": keep, "batch": round(WHOLE_BATCH / keep)})
        for label, keep in KEPT.items()
    ]
    outcomes = carry_out(bench, trials, alike="steps")
    rows = [
        *score_rows(outcomes, {}, scores=("mean_iou",)),
        *(mean_row(label, "final loss", [_final_loss(one.losses) for one in each]) for label, each in outcomes.items()),
        *time_rows(outcomes),
    ]
    whole, *sampled = KEPT
    comparisons = [compare(rows, label, whole, "mean IU", paper="level") for label in sampled]
    comparisons += [compare(rows, label, whole, "time per iteration", paper="above") for label in sampled]
    return Findings(
        tuple(rows),
        conclude(scale(bench, outcomes), comparisons),
        conditions(trials, outcomes, told),
        tuple(loss_curves(outcomes)),
    )


def augmentation(bench: Workbench) -> Findings:
    """Mirroring and shifting by up to 32 pixels against nothing, and this package's own augmentation beside them."""
    start, told = start_of(bench, bench.dataset)
    net = f"fcn32s-{bench.settings.trunk}"
    kinds = {"none": "none", "mirror and shift": "paper", "scale, crop and light": "default"}
    trials = [Trial(label, net, bench.dataset, start, {"augment": kind}) for label, kind in kinds.items()]
    outcomes = carry_out(bench, trials, alike="steps")
    rows = score_rows(outcomes, {})
    comparisons = [
        compare(rows, "mirror and shift", "none", "mean IU", paper="level"),
        compare(rows, "scale, crop and light", "none", "mean IU"),
    ]
    return Findings(tuple(rows), conclude(scale(bench, outcomes), comparisons), conditions(trials, outcomes, told))


def fine_tuning(bench: Workbench) -> Findings:
    """The output layer alone against the whole net, both from a classifier, and the whole net from scratch."""
    start, told = start_of(bench, bench.dataset, frozen=True)
    net = f"fcn32s-{bench.settings.trunk}"
    output, whole, scratch = "output layer", "all layers", "from scratch"
    trials = [
        Trial(output, net, bench.dataset, start, {"tune": "score"}),
        Trial(whole, net, bench.dataset, start),
        Trial(scratch, net, bench.dataset),
    ]
    outcomes = carry_out(bench, trials, alike="seconds")
    # Table 2, which section 4.3 refers to: FCN-32s-fixed and FCN-32s.
    rows = score_rows(outcomes, {output: (83.0, 59.7, 45.4, 72.0), whole: (89.1, 73.3, 59.4, 81.4)})
    comparisons = [
        compare(rows, whole, output, "mean IU", paper="above"),
        compare(rows, whole, scratch, "mean IU", paper="above"),
    ]
    sentence = conclude(scale(bench, outcomes), comparisons)
    if (share := share_of(rows, output, whole)) is not None:
        rows.append(Row(output, "of all layers' mean IU", share, "%", 70))
        sentence += (
            f" The output layer alone reaches {share:.0f} % of the whole net's mean IU; in the paper's text 70 %."
        )
    table = {"the paper's 70 %": "its text; the mean IU of its table 2, 45.4 and 59.4, are 76 %"}
    return Findings(tuple(rows), sentence, {**conditions(trials, outcomes, told), **table})


def share_of(rows: Sequence[Row], part: str, whole: str) -> float | None:
    """The mean IU of one label in percent of another's; None if one of the two names one class only."""
    one, other = ({row.label: row for row in rows if row.measure == "mean IU"}[label] for label in (part, whole))
    return None if one.one_class or other.one_class else 100 * one.ours / other.ours


def _final_loss(losses: Sequence[Sequence[float]]) -> float:
    return statistics.fmean(loss for _, _, loss in losses[-max(1, round(LAST * len(losses))) :])
