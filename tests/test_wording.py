"""How messages put things."""

import pytest

from fullyconv.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "weight file", "2 weight files"),
        (3, "class", "3 classes"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, expected: str) -> None:
    assert counted(number, noun) == expected
