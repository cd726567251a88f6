"""Keys and values of a batch whose rows and tokens come and go without a copy of the rest."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from safer_steer.student.batch_cache import ROOM, BatchLayer, Room

LENGTHS = st.lists(st.integers(1, 5 * ROOM), min_size=1, max_size=3)
ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, ROOM + 2)),
    st.tuples(st.just("add"), st.lists(LENGTHS, min_size=1, max_size=2)),
    st.tuples(st.just("keep"), st.randoms(use_true_random=False)),
)


def batch(rows: list[torch.Tensor]) -> torch.Tensor:
    """Rows [heads, tokens, width], padded on the left with zeros."""
    width = max(row.shape[1] for row in rows)
    return torch.stack([pad(row, (0, 0, width - row.shape[1], 0)) for row in rows])


def drawn(tokens: int) -> torch.Tensor:
    return torch.randn(2, tokens, 3)


@settings(deadline=None, max_examples=200)
@given(LENGTHS, st.lists(ACTIONS, max_size=12), st.integers(0, 2**31))
def test_a_room_holds_what_padded_copies_would(lengths, actions, seed):
    torch.manual_seed(seed)
    rows = [drawn(length) for length in lengths]
    room = Room()
    room.add([batch(rows)])
    for action, given_ in actions:
        if action == "write":
            new = [drawn(given_) for _ in rows]
            room.write(torch.stack(new))
            rows = [torch.cat([row, more], 1) for row, more in zip(rows, new, strict=True)]
        elif action == "add":
            batches = [[drawn(length) for length in lengths] for lengths in given_]
            room.add([batch(new) for new in batches])
            rows = [*rows, *(row for new in batches for row in new)]
        else:
            places = given_.sample(range(len(rows)), given_.randint(1, len(rows)))
            rows = [rows[place] for place in places]
            room.keep(places, max(row.shape[1] for row in rows))
        assert torch.equal(room.used, batch(rows))


def test_tokens_and_rows_come_and_go_where_the_others_stay():
    """The tensors' memory is the same until the room is used up."""
    layer = BatchLayer()
    layer.add([torch.randn(3, 2, 100, 4)], [torch.randn(3, 2, 100, 4)])
    memory = {part.untyped_storage().data_ptr() for part in (layer.keys, layer.values)}

    def same() -> bool:
        return {part.untyped_storage().data_ptr() for part in (layer.keys, layer.values)} == memory

    for _ in range(ROOM - 1):
        layer.update(torch.randn(3, 2, 1, 4), torch.randn(3, 2, 1, 4))
        assert same()
    layer.keep([2, 1], 100 + ROOM - 1)
    assert same()
    longer = torch.randn(1, 2, 100 + 2 * ROOM - 2, 4)
    layer.add([longer], [longer])
    assert same()
    assert layer.get_seq_length() == 100 + 2 * ROOM - 2
    layer.update(torch.randn(3, 2, 1, 4), torch.randn(3, 2, 1, 4))
    assert same()
    layer.update(torch.randn(3, 2, 1, 4), torch.randn(3, 2, 1, 4))
    assert not same()
