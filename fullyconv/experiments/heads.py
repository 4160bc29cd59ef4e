"""Two heads (section 5, SIFT Flow): one net that learns two kinds of labels against a net for each."""

from fullyconv.errors import FullyconvError
from fullyconv.experiments.findings import Findings, Row, compare, conclude, mean_row
from fullyconv.experiments.runs import Trial
from fullyconv.experiments.scenes import plain
from fullyconv.experiments.trials import SCORES, Outcomes, carry_out, conditions, one_class, scale, time_rows
from fullyconv.experiments.warmup import start_of
from fullyconv.experiments.workbench import Workbench

SHOWN = ("pixel_accuracy", "mean_iou")
# Table 5: FCN-16s with two heads on SIFT Flow, percent: of the semantic labels, then of the geometric ones.
PAPER = ({"pixel_accuracy": 85.2, "mean_iou": 39.5}, {"pixel_accuracy": 94.3})
BOTH = "two heads"


def two_heads(bench: Workbench) -> Findings:
    """FCN-16s on the first labels, on the second, and on both."""
    both = bench.whole
    if len(both.heads) != 2:
        raise FullyconvError(
            "SEG-R002",
            f"two heads need two sets of labels, and {both.root} has {len(both.heads)}; give the second with --also",
        )
    start, told = start_of(bench, bench.dataset)
    net = f"fcn16s-{bench.settings.trunk}"
    alone = {name: f"{name} alone" for name in both.heads}
    trials = [
        *(Trial(alone[name], net, plain(head), start) for name, head in both.heads.items()),
        Trial(BOTH, net, plain(both, heads=True), start),
    ]
    outcomes = carry_out(bench, trials, alike="steps")
    rows = [
        *(row for name, paper in zip(both.heads, PAPER, strict=True) for row in _rows(outcomes, name, paper)),
        *time_rows(outcomes),
    ]
    comparisons = [
        *(compare(rows, BOTH, alone[name], f"{name} mean IU", paper="level") for name in both.heads),
        *(compare(rows, BOTH, label, "time per iteration", paper="level") for label in alone.values()),
    ]
    return Findings(tuple(rows), conclude(scale(bench, outcomes), comparisons), conditions(trials, outcomes, told))


def _rows(outcomes: Outcomes, head: str, paper: dict[str, float]) -> list[Row]:
    """The scores of one head, learnt alone and together with the other."""
    return [
        mean_row(
            label,
            f"{head} {SCORES[score]}",
            [100 * outcome.scores[head][score] for outcome in of_label],
            unit="%",
            paper=paper.get(score) if label == BOTH else None,
            one_class=one_class(of_label, head),
        )
        for label, of_label in outcomes.items()
        if head in of_label[0].scores
        for score in SHOWN
    ]
