"""How messages put things."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images, 3 classes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are: a, b, c and 7 more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
