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
    # M: models and model folders
    # P: prediction
    # T: training
    # U: the command line
}
