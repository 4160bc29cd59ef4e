"""What can go wrong, with a code for each fault: what happened, why, and the cure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One entry of the catalogue that `fullyconv explain CODE` prints."""

    title: str
    why: str
    cure: str


class FullyconvError(ValueError):
    """A fault of the input, not of the program: one clear sentence with its code.

    Args:
        code: A key of `FAULTS`, such as `SEG-D001`.
        message: What was expected, what came, where, how many, and the way out.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}  {message}")
        self.code = code
        self.message = message


FAULTS: dict[str, Fault] = {
    # D: datasets, images and masks
    # E: evaluation and scores
    "SEG-E001": Fault(
        "The truth holds a value that is no class",
        "A mask to score against has a value outside 0 to K - 1 that is not the ignore value. Counting it would alias "
        "it to another class, dropping it would flatter the score.",
        "Give the data set's label set (`--data`), or map the value to a class or to ignore; "
        "`fullyconv check DATA` lists every such mask.",
    ),
    "SEG-E002": Fault(
        "A prediction holds a value that is no class",
        "A predicted mask has a value outside 0 to K - 1 on a pixel whose truth counts. A prediction must decide: the "
        "ignore value is allowed only where the truth is ignored too.",
        "Write class indices 0 to K - 1 (the order of the label set), or the data set's own colours or raw values.",
    ),
    "SEG-E003": Fault(
        "Truth and prediction differ in size",
        "Scores are counted pixel by pixel at the size of the truth; a resized prediction would be another number.",
        "Predict at the image's own size, or enlarge the prediction to it (nearest neighbour) before scoring.",
    ),
    # M: models and model folders
    # P: prediction
    # T: training
    # U: the command line
}
