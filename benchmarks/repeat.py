"""The same training with several seeds and settings: scores on val, and their spread.

    python benchmarks/repeat.py ../shared/data/camvid --out runs/repeat --seeds 3 -- --budget 10m
    python benchmarks/repeat.py ../shared/data/camvid --out runs/alignment --seeds 3 \
        --vary alignment grid centred -- --steps 1000

What follows `--` goes to `fullyconv train` as it is. Seeds and settings take turns, so that a machine whose speed
drifts treats all settings alike. A run that is there already is not repeated; one that was stopped is resumed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any


def train(data: str, run: Path, options: list[str]) -> dict[str, Any]:
    """The scores of one run, trained now or before."""
    summary = run.with_suffix(".json")
    if not summary.exists():
        resume = ["--resume"] if (run / "plan.json").exists() else []
        command = [sys.executable, "-m", "fullyconv", "train", data, "--out", str(run), "--json", *options, *resume]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        summary.write_text(done.stdout)
    values: dict[str, Any] = json.loads(summary.read_text())
    return values


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table: mean and range over the seeds, in percent."""
    cells = []
    for score in ("mean_iou", "pixel_accuracy"):
        values = [100 * run["best"][score] for run in runs]
        cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
    epochs = statistics.mean(run["epochs"] for run in runs)
    return f"| {name} | {cells[0]} | {cells[1]} | {epochs:.0f} | {len(runs)} |"


def main() -> None:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--vary", nargs="+", default=["seed"], metavar=("OPTION", "VALUE"))
    options = parser.parse_args(words[:cut])
    name, *values = options.vary
    settings = {value: [f"--{name}", value] for value in values} or {"as given": []}
    runs: dict[str, list[dict[str, Any]]] = {setting: [] for setting in settings}
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for setting, extra in settings.items():
            run = options.out / f"{setting.replace(' ', '-')}-seed{seed}"
            given = [*words[cut + 1 :], *extra, "--seed", str(seed)]
            runs[setting].append(train(options.data, run, given))
    print(f"| {name if values else 'setting'} | val mean IoU (range) | val pixel accuracy (range) | epochs | seeds |")
    print("|---|---|---|---|---|")
    for setting, results in runs.items():
        print(row(setting, results))


if __name__ == "__main__":
    main()
