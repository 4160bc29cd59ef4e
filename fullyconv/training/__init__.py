"""Training: a data set and a network in, a run folder with the best model and a report out."""

from fullyconv.training.run import TrainingRun, train

__all__ = ["TrainingRun", "train"]
