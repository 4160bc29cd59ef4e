"""Fully convolutional networks for semantic segmentation: train, evaluate and predict at any image size.

Names are imported on first use, so that `import fullyconv` costs nothing and the command line answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullyconv.converting import convert
    from fullyconv.datasets import Dataset, open_dataset
    from fullyconv.doctor import check
    from fullyconv.errors import FullyconvError
    from fullyconv.evaluation import Report, evaluate, score
    from fullyconv.exporting import export
    from fullyconv.geometry import Grid
    from fullyconv.importing import import_weights
    from fullyconv.labels import LabelSet
    from fullyconv.models.fcn import FCN
    from fullyconv.prediction import Segmentation, Segmenter, load, predict
    from fullyconv.training import train

__all__ = [
    "FCN",
    "Dataset",
    "FullyconvError",
    "Grid",
    "LabelSet",
    "Report",
    "Segmentation",
    "Segmenter",
    "check",
    "convert",
    "evaluate",
    "export",
    "import_weights",
    "load",
    "open_dataset",
    "predict",
    "score",
    "train",
]

_ROOMS = {
    "FCN": "models.fcn",
    "Dataset": "datasets",
    "FullyconvError": "errors",
    "Grid": "geometry",
    "LabelSet": "labels",
    "Report": "evaluation",
    "Segmentation": "prediction",
    "Segmenter": "prediction",
    "check": "doctor",
    "convert": "converting",
    "evaluate": "evaluation",
    "export": "exporting",
    "import_weights": "importing",
    "load": "prediction",
    "open_dataset": "datasets",
    "predict": "prediction",
    "score": "evaluation",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fullyconv")
    if name not in _ROOMS:
        raise AttributeError(f"module 'fullyconv' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(f"fullyconv.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
