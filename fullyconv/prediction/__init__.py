"""A model and one image of any size: `Segmenter` predicts, `Segmentation` is the answer."""

from fullyconv.prediction.files import Predictions, predict_files
from fullyconv.prediction.memory import ran_out
from fullyconv.prediction.segmentation import Segmentation
from fullyconv.prediction.segmenter import Segmenter, load, opened, predict, segmenters_of_heads
from fullyconv.prediction.tiles import Tiling

__all__ = [
    "Predictions",
    "Segmentation",
    "Segmenter",
    "Tiling",
    "load",
    "opened",
    "predict",
    "predict_files",
    "ran_out",
    "segmenters_of_heads",
]
