"""Table 2: what finer taps and training the whole net are worth."""

from fullyconv.experiments.findings import Findings, compare, conclude
from fullyconv.experiments.runs import Trial
from fullyconv.experiments.trials import carry_out, conditions, scale, score_rows
from fullyconv.experiments.warmup import start_of
from fullyconv.experiments.workbench import Workbench

FIXED, COARSE, MIDDLE, FINE, AT_ONCE = "FCN-32s-fixed", "FCN-32s", "FCN-16s", "FCN-8s", "FCN-8s at once"

# Table 2 of the CVPR paper: subset of VOC 2011 val, percent.
PAPER = {
    FIXED: (83.0, 59.7, 45.4, 72.0),
    COARSE: (89.1, 73.3, 59.4, 81.4),
    MIDDLE: (90.0, 75.7, 62.4, 83.0),
    FINE: (90.3, 75.9, 62.7, 83.2),
}
# The authors' released models scored again on the same images, as Chainer's FCN reports it.
RELEASED = {
    COARSE: (90.48, 76.48, 63.63, 83.46),
    MIDDLE: (91.00, 78.07, 65.01, 84.26),
    FINE: (91.22, 77.61, 65.51, 84.54),
    AT_ONCE: (91.13, 78.50, 65.40, 84.43),
}


def table2(bench: Workbench) -> Findings:
    """Five nets on one trunk, trained equally long: the finer ones in stages, or at once with scaled taps."""
    start, told = start_of(bench, bench.dataset, frozen=True)
    trunk = bench.settings.trunk
    coarse, middle, fine = (f"fcn{stride}s-{trunk}" for stride in (32, 16, 8))
    trials = [
        Trial(FIXED, coarse, bench.dataset, start, {"tune": "score"}),
        Trial(COARSE, coarse, bench.dataset, start),
        Trial(MIDDLE, middle, bench.dataset, start, {"staged": True}),
        Trial(FINE, fine, bench.dataset, start, {"staged": True}),
        Trial(AT_ONCE, f"fcn8s-atonce-{trunk}", bench.dataset, start),
    ]
    outcomes = carry_out(bench, trials, alike="seconds")
    rows = score_rows(outcomes, PAPER, RELEASED)
    pairs = [(COARSE, FIXED), (MIDDLE, COARSE), (FINE, MIDDLE)]
    comparisons = [compare(rows, *pair, "mean IU", paper="above") for pair in pairs]
    comparisons.append(compare(rows, AT_ONCE, FINE, "mean IU", paper="level"))
    return Findings(tuple(rows), conclude(scale(bench, outcomes), comparisons), conditions(trials, outcomes, told))
