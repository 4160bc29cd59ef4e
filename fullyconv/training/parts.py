"""A part of a batch: what one process computes at a time."""

from fullyconv.errors import FullyconvError
from fullyconv.training.plan import Plan
from fullyconv.wording import counted


def refuse_uneven(plan: Plan, processes: int) -> None:
    """Do nothing if a batch can be split evenly over the processes and the parts of each.

    Raises:
        FullyconvError: SEG-T007 if it cannot.
    """
    if plan.recipe.batch % (plan.parts * processes):
        near = max(1, round(plan.recipe.batch / (plan.parts * processes))) * plan.parts * processes
        raise FullyconvError(
            "SEG-T007",
            f"a batch of {plan.recipe.batch} cannot be split over {counted(processes, 'process')} with "
            f"{counted(plan.parts, 'part')} each; use --batch {near}",
        )
