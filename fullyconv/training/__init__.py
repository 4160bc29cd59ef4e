"""Training: a data set and a network in, a run folder with the best model and a report out."""

from fullyconv.training.result import TrainingRun
from fullyconv.training.run import train

__all__ = ["TrainingRun", "train"]
