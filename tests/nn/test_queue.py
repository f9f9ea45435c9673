"""The queue: where keys enter, how it goes round, and how old its rows are."""

import torch

from vidssl.nn.queue import Queue


def test_keys_enter_behind_the_pointer_and_go_round() -> None:
    queue = Queue(5, 4)  # not a multiple of what enters
    start = queue.rows.clone()
    first, second, third = (torch.full((2, 4), float(n)) for n in (1, 2, 3))
    queue.enter(first)
    assert torch.equal(queue.rows, torch.cat([first, start[2:]]))
    queue.enter(second)
    queue.enter(third)  # rows 4 and 0
    assert torch.equal(queue.rows, torch.cat([third[1:], first[1:], second, third[:1]]))
    assert queue.pointer.item() == 1


def test_of_more_keys_than_rows_the_last_stay() -> None:
    queue = Queue(3, 4)
    queue.enter(torch.zeros(1, 4))
    queue.enter(torch.arange(20.0).reshape(5, 4))
    assert {float(row[0]) for row in queue.rows} == {8.0, 12.0, 16.0}


def test_a_fresh_queue_is_of_unit_length_and_in_the_checkpoint() -> None:
    queue = Queue(100, 16)
    assert torch.allclose(queue.rows.norm(dim=1), torch.ones(100))
    assert set(queue.state_dict()) == {"rows", "born", "pointer", "steps"}


def test_the_age_counts_entries() -> None:
    queue = Queue(4, 2)
    assert queue.age().item() == 1.0
    queue.enter(torch.ones(2, 2))
    assert queue.age().item() == 1.5  # two rows of the last entry, two of the beginning
    queue.enter(torch.ones(2, 2))
    assert queue.age().item() == 1.5
    queue.enter(torch.ones(4, 2))
    assert queue.age().item() == 1.0
