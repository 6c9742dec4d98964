"""Hand-made candles, one concept at a time: what happens, when it is known, what it becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from catalog.arrays import BarArrays
from research.groups import smc
from research.groups.smc_structure import (
    EVENT_COUNT,
    EVENT_KINDS,
    EVENT_ROOM,
    FLOATS,
    INTS,
    LENGTH,
    LIFE,
    REACH,
    ROOM,
    TREND_REACH,
    VOLATILITY,
    push,
)
from research.kernel_tools import NEVER, RUN_START
from research.smc_events import COLUMNS, structure_events
from tests.research.markets import Market

INTERVAL = 900 * 10**9
FIRST = 1_900_123

type Candle = tuple[float, float, float, float]
"""Open, high, low, close."""


def series(candles: Sequence[Candle], slots: Sequence[int] | None = None) -> BarArrays:
    """Return candles as bars, in a row unless slots are given."""
    numbers = np.array(candles, dtype=np.float64)
    places = np.arange(len(numbers)) if slots is None else np.array(slots)
    return BarArrays("X", INTERVAL, (FIRST + places) * INTERVAL, *numbers.T, np.ones(len(numbers)))


def path(*closes: float, wick: float = 0.0) -> list[Candle]:
    """Return candles that lead from close to close."""
    pairs = zip((closes[0], *closes[:-1]), closes, strict=True)
    return [(o, max(o, c) + wick, min(o, c) - wick, c) for o, c in pairs]


def events(candles: Sequence[Candle], *kinds: str) -> list[tuple[str, int, int, int, float]]:
    """Return kind, direction, places of event and confirmation, and price."""
    table = structure_events(series(candles))
    found = []
    for row in table.itertuples():
        if row.kind in kinds:
            about, known = row.ts_event // INTERVAL - FIRST, row.ts_init // INTERVAL - FIRST
            found.append((row.kind, row.direction, about, known, row.price))
    return found


def mirrored(candles: Sequence[Candle]) -> list[Candle]:
    return [(1e4 / o, 1e4 / low, 1e4 / high, 1e4 / c) for o, high, low, c in candles]


def last_row(candles: Sequence[Candle]) -> dict[str, float]:
    """Return the features after the last candle, and the vol that they are measured in."""
    f, k, row = [0.0] * FLOATS, [NEVER] * INTS, [0.0] * smc.COLUMNS
    bars = [[0.0] * 5, [0.0] * 5]
    for place, candle in enumerate(candles):
        bars[0] = [*candle, 1.0]
        smc.step(FIRST + place, INTERVAL, [1], bars, [f], [k], [0], [row], [0], [True])
    names = [feature.name.removeprefix("smc_") for feature in smc.FEATURES]
    return dict(zip(names, row, strict=True)) | {"vol": f[VOLATILITY]}


# A hill: up to a high of 106 at place 5, and down again.
HILL = path(101, 102, 103, 104, 105, 106, 105, 104, 103, 102, 101)


# ---------------------------------------------------------------------------------------------
# Swings.


def test_a_swing_is_known_as_many_bars_after_its_extreme_as_it_is_long() -> None:
    assert events(HILL, "swing") == [("swing", 1, 5, 5 + LENGTH, 106.0)]
    for end in range(1, len(HILL)):
        assert events(HILL[:end], "swing") == []


def test_a_swing_low_is_the_mirror_image() -> None:
    found = events(mirrored(HILL), "swing")
    assert found == [("swing", -1, 5, 5 + LENGTH, pytest.approx(1e4 / 106.0))]


def test_a_higher_high_within_its_length_ends_a_swing_before_it_is_one() -> None:
    late = [*HILL[:10], (102.0, 106.5, 101.0, 101.0), *path(101, 100, 99, 98, 97, 96)]
    assert events(late, "swing")[0] == ("swing", 1, 10, 15, 106.5)


def test_of_two_equal_highs_the_first_is_the_swing() -> None:
    twice = path(101, 102, 103, 104, 106, 105, 106, 105, 104, 103, 102, 101)
    # The candle after each top opens there, so four candles share the high.
    assert events(twice, "swing") == [("swing", 1, 4, 9, 106.0)]


def test_a_flat_market_has_no_swings() -> None:
    assert events([(100.0, 100.0, 100.0, 100.0)] * 50, "swing") == []


# ---------------------------------------------------------------------------------------------
# Structure.

# Down through a low at 15, whose break is of structure, then up through the high at 20.
LOW_AT_15 = path(*range(101, 107), *range(105, 95, -1), *range(97, 102))
DOWN = path(*range(101, 107), *range(105, 95, -1), *range(97, 102), *range(100, 91, -1))
TURN = [*DOWN, *path(92, *range(93, 104))[1:]]


def test_a_close_beyond_the_newest_swing_breaks_the_structure_once() -> None:
    found = events(DOWN, "break_of_structure", "change_of_character")
    # The low of 96 at place 15 is known at 20; the close falls below it at 26.
    assert found == [("break_of_structure", -1, 15, 26, 96.0)]


def test_a_break_against_the_last_one_is_a_change_of_character() -> None:
    found = events(TURN, "break_of_structure", "change_of_character")
    assert found[-1][0] == "change_of_character"
    assert [one[1] for one in found] == [-1, 1]
    row = last_row(TURN)
    assert (row["break_of_structure"], row["change_of_character"]) == (0.0, 1.0)
    assert row["break_age"] == pytest.approx(math.log(1 + len(TURN) - 1 - found[-1][3]))


def test_a_wick_alone_breaks_nothing() -> None:
    wick = [*LOW_AT_15, (101.0, 101.0, 90.0, 100.0)]
    assert events(wick, "break_of_structure", "change_of_character") == []


def test_a_swing_that_is_too_old_is_not_broken() -> None:
    for idle, broken in ((REACH - 11, True), (REACH + 1, False)):
        # Sideways between the levels, without swings: each bar inside the one before.
        waiting = [(101.0, 101.0 + 1 / (2 + n), 101.0 - 1 / (2 + n), 101.0) for n in range(idle)]
        fall = path(101, 100, 99, 98, 97, 95)[1:]
        found = events([*LOW_AT_15, *waiting, *fall], "break_of_structure")
        assert [one[2] for one in found] == ([15] if broken else [])


def test_a_break_that_is_too_old_is_no_trend() -> None:
    idle = [92.0, 92.01] * (TREND_REACH // 2)
    assert last_row([*DOWN, *path(*idle)][: 27 + TREND_REACH])["break_of_structure"] == -1.0
    row = last_row([*DOWN, *path(*idle)][: 28 + TREND_REACH])
    assert row["break_of_structure"] == row["change_of_character"] == 0.0
    assert math.isnan(row["break_age"])


# ---------------------------------------------------------------------------------------------
# Order blocks.


def test_a_break_leaves_the_last_extreme_candle_of_the_leg_as_a_block() -> None:
    found = structure_events(series(DOWN))
    block = found[found["kind"] == "order_block"].iloc[0]
    # Between the low at 15 and the break at 26, the highest candles are 20 and 21 (its open).
    assert block["ts_event"] // INTERVAL - FIRST == 21
    assert block["ts_init"] // INTERVAL - FIRST == 26
    assert (block["direction"], block["price"], block["far_price"]) == (-1, 100.0, 101.0)
    row = last_row(DOWN)
    assert row["block_above_distance"] == pytest.approx(math.log(100.0 / 92.0) / row["vol"])
    assert math.isnan(row["block_below_distance"])


def test_a_block_lasts_while_price_is_in_it_and_ends_beyond_it() -> None:
    inside = [*DOWN, *path(92, 94, 96, 98, 100, 101)[1:]]
    assert not [one for one in events(inside, "order_block_broken") if one[2] == 21]
    assert last_row(inside)["block_above_distance"] < 0.0
    beyond = [*inside, (101.0, 101.1, 100.0, 100.5)]
    assert ("order_block_broken", -1, 21, len(inside), 100.0) in events(
        beyond, "order_block_broken"
    )


def test_a_break_whose_bar_trades_through_the_block_leaves_none() -> None:
    through = [*DOWN[:26], (97.0, 102.0, 94.0, 95.0)]
    assert len(events(through, "break_of_structure")) == 1
    assert events(through, "order_block") == []


# ---------------------------------------------------------------------------------------------
# Fair value gaps.

BEFORE: list[Candle] = [(100.0, 101.0, 99.0, 100.0), (100.0, 101.0, 99.5, 100.5)]
GAP: list[Candle] = [*BEFORE, (100.5, 104.0, 100.5, 104.0), (104.0, 105.0, 102.0, 104.5)]


def test_a_gap_is_known_with_its_third_candle() -> None:
    assert events(GAP, "fair_value_gap") == [("fair_value_gap", 1, 2, 3, 102.0)]
    assert events(GAP[:3], "fair_value_gap") == []
    table = structure_events(series(GAP))
    assert table[table["kind"] == "fair_value_gap"]["far_price"].tolist() == [101.0]


def test_the_candle_between_must_point_the_way_of_the_gap() -> None:
    falling = [*BEFORE, (104.0, 104.0, 100.5, 103.0), GAP[3]]
    assert events(falling, "fair_value_gap") == []


def test_a_gap_is_mitigated_when_its_near_edge_is_reached() -> None:
    away = [*GAP, (104.5, 105.0, 102.01, 104.0)]
    assert events(away, "gap_mitigated") == []
    row = last_row(away)
    assert row["gap_below_distance"] == pytest.approx(math.log(102.0 / 104.0) / row["vol"])
    assert row["gap_mitigated"] == 0.0
    reached = [*GAP, (104.5, 105.0, 102.0, 104.0)]
    assert events(reached, "gap_mitigated") == [("gap_mitigated", 1, 2, 4, 102.0)]
    row = last_row(reached)
    assert math.isnan(row["gap_below_distance"])
    assert row["gap_mitigated"] == 1.0


def test_the_nearest_gap_counts_and_behind_it_the_one_before() -> None:
    more: list[Candle] = [(104.5, 108.0, 104.5, 108.0), (108.0, 109.0, 106.0, 108.5)]
    two = [*GAP, *more]
    row = last_row(two)
    assert row["gap_below_distance"] == pytest.approx(math.log(106.0 / 108.5) / row["vol"])
    filled = [*two, (108.5, 108.5, 105.0, 108.5)]
    row = last_row(filled)
    # Between the two lies a third, around the candle that closed at 104.5.
    assert [one[4] for one in events(filled, "fair_value_gap")] == [102.0, 104.5, 106.0]
    assert [one[4] for one in events(filled, "gap_mitigated")] == [106.0]
    assert row["gap_below_distance"] == pytest.approx(math.log(104.5 / 108.5) / row["vol"])


def test_a_gap_that_is_too_old_is_gone() -> None:
    idle: list[Candle] = [(104.0, 105.0, 103.0, 104.1), (104.1, 105.0, 103.0, 104.0)]
    for extra, is_there in ((0, True), (1, False)):
        candles = [*GAP, *(idle * LIFE)[: LIFE - 1 + extra]]
        assert math.isnan(last_row(candles)["gap_below_distance"]) is not is_there


def test_a_gap_in_the_other_direction_is_the_mirror_image() -> None:
    found = events(mirrored([*GAP, (104.5, 105.0, 101.5, 104.0)]), "fair_value_gap")
    assert [one[:4] for one in found] == [("fair_value_gap", -1, 2, 3)]
    assert events(mirrored([*GAP, (104.5, 105.0, 101.5, 104.0)]), "gap_mitigated")[0][1] == -1


# ---------------------------------------------------------------------------------------------
# Liquidity.

TWO_HILLS = path(
    *range(101, 107), *range(105, 99, -1), *range(101, 106), 105.99, *range(105, 99, -1)
)


def test_two_highs_at_a_level_are_a_pool() -> None:
    found = events(TWO_HILLS, "liquidity_pool")
    assert found == [("liquidity_pool", 1, 17, 22, 105.99)]
    row = last_row(TWO_HILLS)
    expected = math.log(105.99 / 100.0) / row["vol"]
    assert row["liquidity_above_distance"] == pytest.approx(expected)
    assert math.isnan(row["liquidity_below_distance"])


def test_highs_at_different_levels_are_none() -> None:
    lower = path(*range(101, 107), *range(105, 99, -1), *range(101, 105), *range(103, 97, -1))
    assert len([one for one in events(lower, "swing") if one[1] == 1]) == 2
    assert events(lower, "liquidity_pool") == []


def test_a_higher_swing_between_two_equal_ones_hides_the_first() -> None:
    hills = [(106, 100), (109, 100), (105.99, 100)]
    closes = [100.0]
    for top, bottom in hills:
        closes += [*np.linspace(closes[-1], top, 7)[1:], *np.linspace(top, bottom, 7)[1:]]
    assert len([one for one in events(path(*closes), "swing") if one[1] == 1]) == 3
    assert [one for one in events(path(*closes), "liquidity_pool") if one[1] == 1] == []


def test_a_high_beyond_a_pool_that_closes_below_it_is_a_bearish_sweep() -> None:
    swept = [*TWO_HILLS, (100.0, 106.0, 100.0, 105.0)]
    # Both stops are taken or not: 106 itself is reached, not exceeded.
    assert events(swept, "sweep") == [("sweep", -1, 17, 24, 105.99)]
    row = last_row(swept)
    assert (row["sweep"], row["sweep_age"]) == (-1.0, 0.0)
    assert math.isnan(row["liquidity_above_distance"])


def test_the_highest_level_taken_is_the_one_that_counts() -> None:
    for close in (105.995, 106.0):
        swept = [*TWO_HILLS, (100.0, 108.0, 100.0, close)]
        assert events(swept, "sweep") == [("sweep", -1, 5, 24, 106.0)]


def test_a_close_beyond_is_no_sweep() -> None:
    through = [*TWO_HILLS, (100.0, 108.0, 100.0, 107.0)]
    assert events(through, "sweep") == []
    assert math.isnan(last_row(through)["liquidity_above_distance"])


def test_a_sweep_of_lows_is_bullish() -> None:
    swept = mirrored([*TWO_HILLS, (100.0, 108.0, 100.0, 105.0)])
    assert [one[:4] for one in events(swept, "sweep")] == [("sweep", 1, 5, 24)]
    assert last_row(swept)["sweep"] == 1.0


# ---------------------------------------------------------------------------------------------
# Everything ends: what is older than its reach is as if it had never been.


def idle(count: int, price: float) -> list[Candle]:
    """Return candles in which nothing happens but a little up and down."""
    return path(*([price, price + 0.01] * count))[:count]


OLD_AND_THEN = {
    # What leaves something behind, how long it lasts at the most, what would have reached it.
    "gap_mitigated": (GAP, LIFE, 2, [(104.5, 104.5, 95.0, 95.0)]),
    "order_block_broken": (DOWN, LIFE, 21, [(92.0, 102.0, 92.0, 102.0)]),
    "sweep": (TWO_HILLS, LIFE, 17, [(100.0, 106.0, 100.0, 105.0)]),
}


@pytest.mark.parametrize("kind", OLD_AND_THEN)
@pytest.mark.parametrize("is_old", [False, True])
def test_what_is_too_old_ends_in_silence(kind: str, is_old: bool) -> None:
    candles, life, about, last = OLD_AND_THEN[kind]
    waiting = idle(about + life + is_old - len(candles), candles[-1][3])
    found = events([*candles, *waiting, *last], kind)
    assert (about in [one[2] for one in found]) is not is_old
    row = last_row([*candles, *waiting, *last])
    if kind == "gap_mitigated":
        assert row["gap_mitigated"] == (0.0 if is_old else 1.0)


@pytest.mark.parametrize("is_old", [False, True])
def test_after_a_trend_that_is_too_old_a_break_changes_nothing(is_old: bool) -> None:
    # Broken downwards at 26; a hill to 95 whose high is then exceeded.
    hill = path(92, 93, 94, 95, 94, 93, 92, 91, 90, 91, 92, 93, 94, 96)[1:]
    waiting = idle(27 + TREND_REACH - len(DOWN) - len(hill) + is_old, 92.0)
    found = events([*DOWN, *waiting, *hill], "break_of_structure", "change_of_character")
    assert found[-1][1:4:2] == (1, 26 + TREND_REACH + is_old)
    assert found[-1][0] == ("break_of_structure" if is_old else "change_of_character")


@pytest.mark.parametrize("is_old", [False, True])
def test_highs_too_far_apart_are_no_pool(is_old: bool) -> None:
    first, second = TWO_HILLS[:12], path(100, *range(101, 106), 105.99, *range(105, 99, -1))[1:]
    waiting = idle(REACH - 11 - 1 + is_old, 100.0)
    found = [one for one in events([*first, *waiting, *second], "liquidity_pool") if one[1] == 1]
    assert [one[2] for one in found] == ([] if is_old else [5 + REACH])


# ---------------------------------------------------------------------------------------------
# Premium and discount, displacement.


def test_premium_is_one_at_the_top_and_minus_one_at_the_bottom() -> None:
    down = path(*range(101, 107), *range(105, 95, -1), *range(97, 106))
    for close, expected in ((106.0, 1.0), (96.0, -1.0), (math.sqrt(96.0 * 106.0), 0.0)):
        row = last_row([*down, (105.0, 106.0, 96.0, close)])
        assert row["premium"] == pytest.approx(expected, abs=1e-12)


def test_a_displacement_is_large_and_mostly_body() -> None:
    quiet = path(*([100.0, 100.1] * 60))
    big: Candle = (100.1, 101.0, 100.1, 101.0)
    assert [one[:4] for one in events([*quiet, big], "displacement")] == [
        ("displacement", 1, len(quiet), len(quiet))
    ]
    row = last_row([*quiet, big])
    assert row["displacement"] == pytest.approx(math.log(101.0 / 100.1) / row["vol"])
    assert last_row(mirrored([*quiet, big]))["displacement"] == pytest.approx(-row["displacement"])
    wicked: Candle = (100.1, 101.0, 99.5, 101.0)
    small: Candle = (100.1, 100.25, 100.1, 100.25)
    for candle in (wicked, small):
        assert last_row([*quiet, candle])["displacement"] == 0.0
    assert last_row([*quiet, big, *path(*([101.0, 101.1] * 17))])["displacement"] == 0.0


# ---------------------------------------------------------------------------------------------
# The table of events.


def test_every_kind_of_event_is_told_with_both_times() -> None:
    bars = Market(21, 1_500).panel().bars[0]
    table = structure_events(bars)
    assert tuple(table.columns) == COLUMNS
    assert set(table["kind"]) == set(EVENT_KINDS)
    assert set(table["direction"]) == {1, -1}
    assert table["ts_init"].is_monotonic_increasing
    delays = (table["ts_init"] - table["ts_event"]) // bars.interval_ns
    fixed = {"swing": LENGTH, "liquidity_pool": LENGTH, "fair_value_gap": 1, "displacement": 0}
    for kind, delay in fixed.items():
        assert set(delays[table["kind"] == kind]) == {delay}
    assert (delays >= 0).all()
    assert (table["price"] > 0.0).all()


@pytest.mark.parametrize("end", [700, 811, 1_203])
def test_events_known_by_a_time_do_not_change_after_it(end: int) -> None:
    bars = Market(22, 1_300, missing=0.05).panel().bars[0]
    known_at = int(bars.ts_init[end - 1 - len(bars) // 10])
    table = structure_events(bars)
    before = structure_events(bars.between(None, known_at))
    pd.testing.assert_frame_equal(table[table["ts_init"] <= known_at], before)
    assert len(before) > 100


def test_what_happened_before_a_long_gap_is_forgotten() -> None:
    slots = [*range(len(GAP)), 200, 201]
    after: list[Candle] = [(100.0, 100.0, 100.0, 100.0)] * 2
    table = structure_events(series([*GAP, *after], slots))
    assert "gap_mitigated" not in set(table["kind"])
    table = structure_events(series([*GAP, *after], [*range(len(GAP)), 20, 21]))
    assert "gap_mitigated" in set(table["kind"])


def test_no_bar_can_bring_more_events_than_there_is_room_for() -> None:
    # More gaps than are kept, swings and a block, and one bar through all of it.
    f, k = [0.0] * FLOATS, [NEVER] * INTS
    k[RUN_START] = FIRST
    low = 120.0
    candles = path(101, *range(102, 120), *range(119, 109, -1), *range(111, 121))
    for _ in range(60):
        candles += path(low, low + 1, low + 3)[1:]
        low += 3
    most = 0
    for place, candle in enumerate([*candles, (low, 1e9, 1e-9, 50.0)]):
        push(f, k, FIRST + place, [*candle, 1.0])
        most = max(most, k[EVENT_COUNT])
    assert ROOM < most <= EVENT_ROOM
