"""A thread works ahead, or behind, and nobody notices but by the clock."""

from itertools import islice

import pytest

from fullyconv.ahead import ahead


def test_work_ahead_keeps_the_order_and_raises_in_turn() -> None:
    assert list(ahead(lambda item: item * item, range(20))) == [(item, item * item) for item in range(20)]

    def fails_at_three(item: int) -> int:
        return 1 // (3 - item)

    results = ahead(fails_at_three, range(9))
    assert [item for item, _ in islice(results, 3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_has_begun_is_done_also_when_the_series_breaks() -> None:
    def breaking():
        yield from (1, 2)
        raise KeyboardInterrupt

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        list(ahead(done.append, breaking()))
    assert done == [1, 2]
