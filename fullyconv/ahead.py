"""Work on a series of items that a thread does while others are waited for or computed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    on_item: Callable[[], None] | None = None,
    *,
    most: int = 4,
) -> Iterator[tuple[Item, Result]]:
    """Each item with the function's result, which a thread computes a few items ahead of the consumer.

    It is what decodes images ahead of a network, and what writes results behind one that `items` computes.

    Args:
        function: Runs in the thread; its error is raised when its item's turn comes.
        items: In order.
        on_item: Told when the consumer is done with an item.
        most: How many items are held at a time.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    rest = iter(items)
    with ThreadPoolExecutor(max_workers=1) as pool:
        while True:
            waiting.extend((item, pool.submit(function, item)) for item in islice(rest, most - len(waiting)))
            if not waiting:
                return
            item, future = waiting.popleft()
            yield item, future.result()
            if on_item is not None:
                on_item()
