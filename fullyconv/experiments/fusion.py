"""Section 4.2: scores of several taps fused by summing, against those of single taps."""

from fullyconv.experiments.findings import Findings, compare, conclude
from fullyconv.experiments.runs import Trial
from fullyconv.experiments.trials import carry_out, conditions, scale, score_rows
from fullyconv.experiments.warmup import start_of
from fullyconv.experiments.workbench import Workbench


def fusion(bench: Workbench) -> Findings:
    """FCN-32s, 16s and 8s, and the finer taps of the latter alone, all trained directly and equally long."""
    start, told = start_of(bench, bench.dataset)
    coarse, middle, fine = (f"fcn{stride}s-{bench.settings.trunk}" for stride in (32, 16, 8))
    trials = [
        Trial("stride 32", coarse, bench.dataset, start),
        Trial("stride 16 only", middle, bench.dataset, start, tap_scales=(1.0, 0.0)),
        Trial("stride 8 only", fine, bench.dataset, start, tap_scales=(1.0, 0.0, 0.0)),
        Trial("strides 16 + 32", middle, bench.dataset, start),
        Trial("strides 8 + 16 + 32", fine, bench.dataset, start),
    ]
    outcomes = carry_out(bench, trials, alike="steps")
    # Table 2: FCN-32s, 16s and 8s, the latter two in stages.
    paper = {
        "stride 32": (89.1, 73.3, 59.4, 81.4),
        "strides 16 + 32": (90.0, 75.7, 62.4, 83.0),
        "strides 8 + 16 + 32": (90.3, 75.9, 62.7, 83.2),
    }
    rows = score_rows(outcomes, paper)
    comparisons = [
        compare(rows, "strides 16 + 32", "stride 32", "mean IU", paper="above"),
        compare(rows, "strides 8 + 16 + 32", "strides 16 + 32", "mean IU", paper="above"),
        compare(rows, "stride 16 only", "strides 16 + 32", "mean IU", paper="below"),
        compare(rows, "stride 8 only", "strides 8 + 16 + 32", "mean IU"),
    ]
    return Findings(tuple(rows), conclude(scale(bench, outcomes), comparisons), conditions(trials, outcomes, told))
