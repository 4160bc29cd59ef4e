"""How messages put things."""


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images, 3 classes."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"
