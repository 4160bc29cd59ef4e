"""Order and chance depend on seed, epoch and position, and on nothing else."""

import torch

from fullyconv.sampling import Stream, order, seed_of, share


def test_an_epoch_shows_every_image_once():
    stream = Stream(seed=3, size=7)
    for epoch in range(3):
        draws = [stream[7 * epoch + place] for place in range(7)]
        assert sorted(draw.index for draw in draws) == list(range(7))
        assert {draw.epoch for draw in draws} == {epoch}


def test_any_position_is_the_same_however_it_is_reached():
    forward = [Stream(3, 5)[position] for position in range(20)]
    seeking = Stream(3, 5)
    assert [seeking[position] for position in reversed(range(20))] == forward[::-1]


def test_epochs_and_seeds_differ():
    assert not torch.equal(order(0, 0, 50), order(0, 1, 50))
    assert not torch.equal(order(0, 0, 50), order(1, 0, 50))
    assert len({Stream(0, 10)[position].seed for position in range(100)}) == 100


def test_seeds_depend_on_the_order_of_their_parts():
    assert seed_of(1, 2) != seed_of(2, 1)
    assert seed_of(12, 3) != seed_of(1, 23)


def test_processes_share_a_batch_without_overlap():
    whole = list(share(5, 12, 0, 1))
    assert [position for process in range(3) for position in share(5, 12, process, 3)] == whole == list(range(60, 72))
