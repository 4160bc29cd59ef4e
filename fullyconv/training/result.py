"""What a run comes to, and the file that keeps it."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fullyconv import artefact
from fullyconv.wording import counted
from fullyconv.writing import write_json

FILE = "result.json"


@dataclass(frozen=True)
class TrainingRun:
    """What training made; the same on every process. The report counts in the minutes, not in the images per second."""

    run: Path
    best: Mapping[str, float]
    epochs: float
    steps: int
    images_per_second: float
    minutes: float

    def to_json(self) -> dict[str, Any]:
        """`{"run", "best", "epochs", "steps", "images_per_second", "minutes"}`."""
        return {**asdict(self), "run": str(self.run)}

    def __str__(self) -> str:
        scores = ", ".join(f"{name.replace('_', ' ')} {100 * value:.2f}" for name, value in self.best.items())
        page = self.run / "report.html"
        look = f"look at    {page}\n" if page.exists() else ""
        return (
            f"{self.run}: best on val: {scores}; "
            f"{self.epochs:.1f} epochs, {counted(self.steps, 'step')} in {self.minutes:.1f} min\n"
            f"{look}{self._predicting()}"
        )

    def _predicting(self) -> str:
        """The commands that predict with the best model: all pictures of a scene in, each head's masks out."""
        config = json.loads((self.run / "model" / artefact.CONFIG).read_text(encoding="utf-8"))
        further = ",".join(["MORE/{name}.png"] * (len(config["preprocessing"]["bands"]) - 1))
        words = ["fullyconv", "predict", str(self.run), "PHOTOS", *(["--more", further] if further else []), "--out"]
        heads = [[f"masks/{name}", "--head", name] for name in artefact.labels_of_heads(config)] or [["masks/"]]
        return "\n".join(f"predict    {shlex.join([*words, *head])}" for head in heads)

    def write(self) -> None:
        """Writes result.json into the run folder, the last file of a run: where it stands, the run is over."""
        known = {name: None if math.isnan(score) else score for name, score in self.best.items()}
        write_json(self.run / FILE, {**self.to_json(), "best": known})

    @classmethod
    def read(cls, folder: Path) -> "TrainingRun | None":
        """The result of a run that is over, or None."""
        file = folder / FILE
        if not file.is_file():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        best = {name: math.nan if score is None else score for name, score in values["best"].items()}
        return cls(**{**values, "run": folder, "best": best})
