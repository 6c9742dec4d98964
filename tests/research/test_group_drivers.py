"""How a batch hands its records over; that the drivers agree is tested with the groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research import group_drivers
from research.group_drivers import RecordFeed, Records


@given(seed=st.integers(0, 2**31 - 1), ahead=st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_every_record_is_handed_over_once_and_in_time(seed: int, ahead: int) -> None:
    random = np.random.default_rng(seed)
    parts = []
    for number, size in enumerate((0, 40, 200)):
        ts_init = np.sort(random.integers(0, 1_000, size))
        value = number * 1_000.0 + np.arange(size)
        parts.append(Records(ts_init, (value,) if number == 1 else (value, -value)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_drivers, "RECORDS_AHEAD", ahead)
        feed = RecordFeed(parts, [(str(number), number) for number in range(3)])
    taken: list[list[tuple[int, float]]] = [[], [], []]
    for ts in [*np.sort(random.choice(1_000, 20)).tolist(), 1_000]:
        (stamps, columns, rows), cursors = feed.until(ts)
        assert rows.tolist() == [0, 1, 2]
        for place, found in enumerate(taken):
            # As the loop does it: what is known by then is taken, the rest is left.
            while cursors[0, place] < cursors[1, place] and stamps[cursors[0, place]] <= ts:
                at = cursors[0, place]
                found.append((int(stamps[at]), float(columns[0, at])))
                assert np.isnan(columns[2:, at]).all()
                assert np.isnan(columns[1, at]) == (place == 1)
                cursors[0, place] += 1
            assert len(found) == np.searchsorted(parts[place].ts_init, ts, side="right")
    for found, part in zip(taken, parts, strict=True):
        wanted = zip(part.ts_init.tolist(), part.columns[0].tolist(), strict=True)
        assert found == list(wanted)


def test_without_inputs_there_is_nothing_to_hand_over() -> None:
    (stamps, columns, rows), cursors = RecordFeed([], []).until(5)
    assert (len(stamps), columns.shape, len(rows), cursors.shape) == (0, (5, 0), 0, (2, 0))
