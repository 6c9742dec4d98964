"""What comes out of the gate is what a catalog would hold, whatever came in and in which order."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from live.bar_gate import BarGate, BarSet, Gap, GateConfig, RawBar

SECOND = 10**9
STEP = 900 * SECOND
START = 1_704_067_200 * SECOND
NAMES = ("BTC", "ETH", "SOL")
GOOD = (10.0, 12.0, 9.0, 11.0, 5.0)


def close(index: int) -> int:
    return START + index * STEP


def bar(name: str, index: int, *, streamed: bool = True, price: float = 10.0) -> RawBar:
    numbers = (price, price + 2.0, price - 1.0, price + 1.0, float(index))
    return RawBar(name, close(index) - SECOND // 1_000, numbers, None, streamed)


def gate(names: tuple[str, ...] = NAMES, first: int = 1, **config: Any) -> BarGate:
    return BarGate(names, STEP, close(first), GateConfig(**config))


def held(found: BarSet | None) -> tuple[int, list[str], tuple[str, ...]]:
    assert found is not None
    return (found.ts - START) // STEP, list(found.bars), found.missing


class Exchange:
    """Streams in any order, and answers for its history in pages.

    Parameters
    ----------
    seed : int
        Of all that is random.
    closes : int
        How many there are.
    """

    def __init__(self, seed: int, closes: int) -> None:
        self.rng = random.Random(seed)
        self.closes = closes
        self.exists = {
            (name, index)
            for name in NAMES
            for index in range(1, closes + 1)
            if self.rng.random() > 0.1
        }
        # A later bar shows that the exchange goes on.
        self.exists |= {(name, closes) for name in NAMES}

    def stream(self) -> Iterator[tuple[int, RawBar]]:
        """Yield when something arrives, and what: some bars never, some twice, some far too soon
        or late."""
        arriving = []
        for name, index in sorted(self.exists):
            for _ in range(self.rng.choice((0, 1, 1, 1, 2))):
                delay = self.rng.choice((0.05, 0.05, 1.5, 30.0, 1_000.0, 5_000.0))
                arriving.append((close(index) + round(delay * SECOND), bar(name, index)))
            if self.rng.random() < 0.2:
                before = round(self.rng.uniform(1.0, 800.0) * SECOND)
                sent = close(index) - before
                arriving.append((sent, bar(name, index, price=7.0)._replace(seen=sent)))
        yield from sorted(arriving, key=lambda one: one[0])

    def answer(self, gap: Gap, now: int) -> list[RawBar]:
        """Return a page of what was asked for and a bar before it; the unfinished one included."""
        first, last = (gap.first - START) // STEP - 2, (gap.last - START) // STEP + 1
        found = [
            bar(
                gap.instrument_id, index, streamed=False, price=10.0 if close(index) <= now else 7.0
            )
            for index in range(first, last + 1)
            if (gap.instrument_id, index) in self.exists and close(index - 1) < now
        ]
        return found[: self.rng.randint(4, 20)]

    def batch(self) -> list[tuple[int, list[str], tuple[str, ...]]]:
        rows = []
        for index in range(1, self.closes + 1):
            there = [name for name in NAMES if (name, index) in self.exists]
            if there:
                lacking = tuple(name for name in NAMES if name not in there)
                rows.append((index, there, lacking))
        return rows


def run(exchange: Exchange, subject: BarGate) -> list[BarSet]:
    """Play the stream into the gate, asking for what it lacks as a feed would."""
    found: list[BarSet] = []
    arriving = list(exchange.stream())
    now, steps = close(1), 0
    while now <= close(exchange.closes) + 100 * SECOND or steps < 100:
        steps += now > close(exchange.closes)
        while arriving and arriving[0][0] <= now:
            subject.take(arriving.pop(0)[1], now)
            found += subject.ready(now)
        for gap in subject.gaps(now):
            if exchange.rng.random() < 0.3:
                continue  # no answer
            answer = exchange.answer(gap, now)
            new = [subject.take(one, now) for one in answer].count("taken")
            if answer:
                subject.proves(gap.instrument_id)
            if not new:
                subject.lacks(gap, now)
        found += subject.ready(now)
        # The node may stand still, so that what came waits.
        now += exchange.rng.choice((1, 5, 60, 400)) * SECOND
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), closes=st.integers(1, 40))
def test_each_bar_comes_out_once_in_order_and_complete_as_in_the_batch(
    seed: int, closes: int
) -> None:
    exchange = Exchange(seed, closes)
    subject = gate()
    found = run(exchange, subject)
    assert [held(one) for one in found] == exchange.batch()
    # Never the numbers of an unfinished bar.
    prices = {raw.numbers[0] for one in found for raw in one.bars.values()}
    assert prices == {10.0}
    counts = subject.counts
    assert counts.warmup + counts.bars == len(exchange.exists)
    assert counts.late == 0
    assert counts.refused == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), count=st.integers(1, 12))
def test_the_order_of_arrival_does_not_matter(seed: int, count: int) -> None:
    rng = random.Random(seed)
    bars = [bar(name, index) for name in NAMES for index in range(1, count + 1)]
    subject = gate()
    rng.shuffle(bars)
    found = []
    for one in bars:
        assert subject.take(one, close(count)) == "taken"
        found += subject.ready(close(count))
    assert [held(one) for one in found] == [
        (index, list(NAMES), ()) for index in range(1, count + 1)
    ]
    assert all(subject.take(one, close(count)) == "duplicate" for one in bars)
    assert subject.counts.duplicate == len(bars)
    assert subject.pop(close(count) + 800 * SECOND) is None


def test_stamps_just_before_a_close_mean_the_close_and_others_are_refused() -> None:
    subject = gate()
    assert subject.close_of(close(3)) == close(3)
    assert subject.close_of(close(3) - 1) == close(3)
    assert subject.close_of(close(3) - 999 * 10**6) == close(3)
    assert subject.close_of(close(3) - SECOND) is None
    assert subject.close_of(close(3) + 1) is None
    assert subject.take(bar("BTC", 3)._replace(stamp=close(3) + 1), close(5)) == "off_grid"
    assert subject.take(bar("XRP", 3), close(5)) == "unknown"
    assert subject.counts.refused == 2


@pytest.mark.parametrize(
    "numbers",
    [
        (10.0, 9.0, 8.0, 9.0, 1.0),
        (10.0, 12.0, 11.0, 11.0, 1.0),
        (0.0, 12.0, 0.0, 11.0, 1.0),
        (10.0, math.inf, 9.0, 11.0, 1.0),
        (10.0, 12.0, math.nan, 11.0, 1.0),
        (math.nan, 12.0, 9.0, 11.0, 1.0),
        (10.0, 12.0, 9.0, 11.0, -1.0),
        (10.0, 12.0, 9.0, 11.0, math.nan),
    ],
)
def test_impossible_numbers_are_refused(numbers: tuple[float, ...]) -> None:
    subject = gate(("BTC",))
    assert subject.take(bar("BTC", 1)._replace(numbers=numbers), close(1)) == "wrong"
    assert subject.pop(close(1)) is None
    assert subject.take(bar("BTC", 1)._replace(numbers=(*GOOD[:4], 0.0)), close(1)) == "taken"
    assert held(subject.pop(close(1))) == (1, ["BTC"], ())


def test_a_bar_is_finished_when_our_clock_says_so_or_nearly() -> None:
    subject = gate(("BTC",))
    early = bar("BTC", 1)
    assert subject.take(early, close(1) - SECOND) == "unfinished"
    assert subject.take(early._replace(streamed=False), close(1) + SECOND // 2) == "overlap"
    assert subject.counts.unfinished == 1
    assert subject.take(early, close(1) - SECOND // 2) == "taken"


def test_a_bar_that_the_history_lacks_is_missing_only_after_the_patience() -> None:
    subject = gate()
    for name in ("BTC", "SOL"):
        subject.take(bar(name, 1), close(1))
    assert subject.gaps(close(1) + SECOND) == []
    (gap,) = subject.gaps(close(1) + 2 * SECOND)
    assert gap == Gap("ETH", close(1), close(1))
    subject.proves("ETH")
    subject.lacks(gap, close(1) + 9 * SECOND)
    assert subject.pop(close(1) + 60 * SECOND) is None
    subject.lacks(gap, close(1) + 10 * SECOND)
    assert held(subject.pop(close(1) + 10 * SECOND)) == (1, ["BTC", "SOL"], ("ETH",))
    assert subject.take(bar("ETH", 1), close(1) + 20 * SECOND) == "late"
    assert (subject.counts.missing, subject.counts.late) == (1, 1)


def test_a_history_that_never_showed_a_bar_is_not_believed() -> None:
    subject = gate()
    subject.take(bar("BTC", 5), close(5))
    for _ in range(3):
        for gap in subject.gaps(close(5) + 60 * SECOND):
            subject.lacks(gap, close(5) + 60 * SECOND)
    assert subject.pop(close(5) + 60 * SECOND) is None
    # What was searched in vain is asked for again, from its beginning.
    assert {gap.first for gap in subject.gaps(close(5) + 61 * SECOND)} == {close(1)}


def test_behind_a_page_without_anything_the_next_is_asked_for() -> None:
    subject = gate(("BTC",))
    (gap,) = subject.gaps(close(9) + 60 * SECOND)
    subject.lacks(gap._replace(last=close(4)), close(9) + 60 * SECOND)
    (gap,) = subject.gaps(close(9) + 60 * SECOND)
    assert (gap.first, gap.last) == (close(5), close(9))
    for index in range(7, 10):
        subject.take(bar("BTC", index, streamed=False), close(9) + 60 * SECOND)
    subject.proves("BTC")
    (gap,) = subject.gaps(close(9) + 60 * SECOND)
    assert (gap.first, gap.last) == (close(1), close(6))
    subject.lacks(gap, close(9) + 60 * SECOND)
    # An instrument that is younger than the warm-up begins with its first bar.
    assert held(subject.pop(close(9) + 60 * SECOND)) == (7, ["BTC"], ())


def test_a_close_without_any_bar_is_passed_over_once_a_later_one_has_some() -> None:
    subject = gate(("BTC",))
    subject.proves("BTC")
    now = close(3) + 60 * SECOND
    subject.take(bar("BTC", 1), now)
    assert held(subject.pop(now)) == (1, ["BTC"], ())
    (gap,) = subject.gaps(now)
    subject.lacks(gap, now)
    assert subject.pop(now) is None
    assert subject.gaps(now) == [Gap("BTC", close(2), close(3))]
    subject.take(bar("BTC", 4), close(4))
    subject.lacks(gap, now)
    assert held(subject.pop(close(4))) == (4, ["BTC"], ())
    assert subject.counts.missing == 0


def test_bars_behind_a_gap_wait_and_tell_of_it_at_once() -> None:
    subject = gate(("BTC",))
    subject.take(bar("BTC", 1), close(1))
    assert subject.pop(close(1)) is not None
    subject.take(bar("BTC", 4), close(4))
    assert subject.pop(close(4)) is None
    assert subject.gaps(close(4)) == [Gap("BTC", close(2), close(3))]
    assert subject.gaps(close(4) + SECOND) == [Gap("BTC", close(2), close(3))]
    assert subject.counts.gaps == 1
    for index in (2, 3):
        subject.take(bar("BTC", index, streamed=False), close(4))
    found = list(subject.ready(close(4)))
    assert [(one.ts - START) // STEP for one in found] == [2, 3, 4]
    assert [one.fresh for one in found] == [False, False, True]
    assert (subject.counts.bars, subject.counts.backfilled) == (4, 2)


def test_decisions_are_made_on_young_closes_only() -> None:
    for seconds, fresh in ((0, True), (90, True), (91, False)):
        subject = gate(("BTC",))
        subject.take(bar("BTC", 1), close(1))
        found = subject.pop(close(1) + seconds * SECOND)
        assert found is not None
        assert found.fresh is fresh
    # However old it may be, it must be the latest.
    subject = gate(("BTC",), decide_within_secs=86_400.0)
    subject.take(bar("BTC", 1), close(1))
    found = subject.pop(close(2))
    assert found is not None
    assert not found.fresh


def test_restated_numbers_are_counted_and_the_first_count() -> None:
    subject = gate(("BTC",))
    subject.take(bar("BTC", 1), close(1))
    found = subject.pop(close(1))
    assert found is not None
    assert subject.take(bar("BTC", 1, price=11.0), close(1)) == "duplicate"
    assert subject.take(bar("BTC", 1, streamed=False), close(2)) == "overlap"
    assert subject.counts.restated == 1
    assert found.bars["BTC"].numbers[0] == 10.0


def test_a_source_without_a_history_is_waited_for_as_long_as_the_patience() -> None:
    subject = gate(has_history=False)
    subject.take(bar("BTC", 1), close(1))
    assert subject.pop(close(1) + 9 * SECOND) is None
    assert held(subject.pop(close(1) + 10 * SECOND)) == (1, ["BTC"], ("ETH", "SOL"))


def test_recorded_data_know_that_nothing_more_comes() -> None:
    subject = gate()
    subject.take(bar("SOL", 1), close(1))
    subject.complete(close(1))
    assert held(subject.pop(close(1))) == (1, ["SOL"], ("BTC", "ETH"))


def test_what_no_gate_can_be_made_of_is_refused() -> None:
    with pytest.raises(ConfigError, match="must name at least one"):
        gate(())
    with pytest.raises(ConfigError, match=r"must be a multiple of 900000000000 ns, was 2024"):
        BarGate(NAMES, STEP, START + 1, GateConfig())
