"""Funding as it is settled, whatever a stream expected before."""

from __future__ import annotations

import math

from live.bar_gate import Gap
from live.settlements import Settlement, Settlements

SECOND = 10**9
HOUR = 3_600 * SECOND
START = 1_704_067_200 * SECOND
BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"


def at(hours: float) -> int:
    return START + round(hours * HOUR)


def known(*, has_history: bool = True, silent: bool = False) -> Settlements:
    """Settlements of which those of the start are known, and of ETH, unless silent, the next."""
    found = Settlements((BTC, ETH), at(-48), 5 * SECOND, has_history=has_history)
    for name in (BTC, ETH):
        found.stored(name, [(at(-8), 1e-4), (at(0), 2e-4)])
        found.lacks(Gap(name, at(-8), at(1)), at(1))
    if not silent:
        found.take(ETH, 2e-4, at(1), at(96))
    return found


def test_before_the_history_has_told_bars_wait() -> None:
    found = Settlements((BTC, ETH), at(-48), 5 * SECOND)
    assert found.holds_back(at(0), at(1))
    assert found.gaps(at(1.5)) == [Gap(BTC, at(-48), at(1)), Gap(ETH, at(-48), at(1))]
    assert found.answered(BTC, [(at(-8) + 3 * 10**6, 1e-4), (at(0) + 10**6, 2e-4)]) == 2
    assert found.gaps(at(1.5))[0] == Gap(BTC, at(0), at(1))
    found.lacks(Gap(BTC, at(0), at(1)), at(1.5))
    assert found.holds_back(at(0), at(1.5))
    # An exchange that tells of no settlement at all is asked again.
    found.lacks(Gap(ETH, at(-48), at(1)), at(1.5))
    assert found.gaps(at(1.5)) == [Gap(ETH, at(-48), at(1))]
    found.answered(ETH, [(at(0), 2e-4)])
    found.lacks(Gap(ETH, at(0), at(1)), at(1.5))
    assert not found.holds_back(at(0), at(1.5))
    # Put on their hour, in order of time and then of the instruments.
    assert found.up_to(at(0)) == [
        Settlement(BTC, at(-8), 1e-4),
        Settlement(BTC, at(0), 2e-4),
        Settlement(ETH, at(0), 2e-4),
    ]
    assert found.up_to(at(0)) == []


def test_a_page_without_settlements_is_followed_by_the_next() -> None:
    found = Settlements((BTC,), at(-48), 5 * SECOND)
    found.lacks(Gap(BTC, at(-48), at(-24)), at(1))
    assert found.gaps(at(1)) == [Gap(BTC, at(-24), at(1))]


def test_a_streamed_rate_is_only_expected_until_it_is_due() -> None:
    found = known()
    found.up_to(at(0))
    for minute in range(5):
        found.take(BTC, 3e-4, at(1) + minute * 60 * SECOND, at(8))
    assert not found.holds_back(at(7.75), at(7.75))
    assert found.gaps(at(7.9)) == []
    assert found.holds_back(at(8), at(8))
    assert found.gaps(at(8)) == [Gap(BTC, at(0), at(8))]
    # Bars that closed before it need not wait.
    assert not found.holds_back(at(7.75), at(8))
    assert found.answered(BTC, [(at(0), 2e-4), (at(8) + 2 * 10**6, 5e-4)]) == 1
    assert not found.holds_back(at(8), at(8))
    assert found.up_to(at(7.75)) == []
    assert found.up_to(at(8)) == [Settlement(BTC, at(8), 5e-4)]
    assert found.counts.estimated == 0


def test_after_the_patience_what_was_expected_counts() -> None:
    found = known()
    found.up_to(at(0))
    found.take(BTC, 3e-4, at(7), at(8))
    # The stream has gone on to the next settlement.
    found.take(BTC, 9e-4, at(8) + SECOND, at(16))
    # The patience begins when bars wait for it, not before.
    assert not found.holds_back(at(7.75), at(8) + 60 * SECOND)
    assert found.holds_back(at(8), at(9))
    assert found.holds_back(at(8), at(9) + 4 * SECOND)
    assert not found.holds_back(at(8), at(9) + 5 * SECOND)
    assert found.up_to(at(8)) == [Settlement(BTC, at(8), 3e-4)]
    assert found.counts.estimated == 1
    # The history is asked on, and what it says is told once.
    assert found.gaps(at(9)) == [Gap(BTC, at(8), at(9))]
    assert found.answered(BTC, [(at(0), 2e-4)]) == 0
    assert found.answered(BTC, [(at(0), 2e-4), (at(8), 5e-4)]) == 1
    assert found.corrected() == [Settlement(BTC, at(8), 5e-4)]
    assert found.corrected() == found.up_to(at(8)) == found.gaps(at(9)) == []


def test_an_expected_rate_that_nobody_was_told_is_replaced() -> None:
    found = known()
    found.up_to(at(0))
    for name in (BTC, ETH):
        found.take(name, 3e-4, at(7), at(8))
    assert found.holds_back(at(8), at(8))
    found.answered(ETH, [(at(8), 4e-4)])
    assert not found.holds_back(at(8), at(8) + 5 * SECOND)
    assert found.answered(BTC, [(at(8), 5e-4)]) == 1
    assert found.corrected() == []
    assert found.up_to(at(8)) == [Settlement(BTC, at(8), 5e-4), Settlement(ETH, at(8), 4e-4)]


def test_a_settlement_that_the_history_leaves_out_is_not_asked_for_for_ever() -> None:
    found = known()
    found.take(BTC, 3e-4, at(7), at(8))
    assert found.holds_back(at(8), at(8))
    assert not found.holds_back(at(8), at(8) + 5 * SECOND)
    found.answered(BTC, [(at(0), 2e-4), (at(16), 5e-4)])
    assert found.gaps(at(17)) == []


def test_what_was_expected_rightly_is_no_news() -> None:
    found = known()
    found.up_to(at(0))
    found.take(BTC, 3e-4, at(7), at(8))
    assert found.holds_back(at(8), at(8))
    assert not found.holds_back(at(8), at(8) + 5 * SECOND)
    found.up_to(at(8))
    assert found.answered(BTC, [(at(8), 3e-4)]) == 1
    assert found.corrected() == found.gaps(at(9)) == []


def test_recorded_data_stream_settlements_themselves() -> None:
    found = known(has_history=False)
    found.up_to(at(0))
    found.take(BTC, 3e-4, at(8), at(8))
    found.take(ETH, 4e-4, at(8), None)
    found.take(ETH, 4e-4, at(8), None)
    assert not found.holds_back(at(8), at(8))
    assert found.up_to(at(8)) == [Settlement(BTC, at(8), 3e-4), Settlement(ETH, at(8), 4e-4)]
    assert found.gaps(at(8)) == []


def test_without_a_history_what_was_expected_counts_at_once() -> None:
    found = known(has_history=False)
    found.up_to(at(0))
    found.take(BTC, 3e-4, at(7), at(8))
    assert not found.holds_back(at(8), at(8))
    assert found.up_to(at(8)) == [Settlement(BTC, at(8), 3e-4)]


def test_a_stream_that_is_silent_before_and_after_a_settlement_hides_none() -> None:
    found = known(silent=True)
    found.up_to(at(0))
    assert not found.holds_back(at(7.75), at(7.75))
    # Nothing was streamed: expected as far from the last as that is from the one before.
    assert found.holds_back(at(8), at(8))
    assert found.gaps(at(8)) == [Gap(BTC, at(0), at(8)), Gap(ETH, at(0), at(8))]
    for name in (BTC, ETH):
        found.answered(name, [(at(8), 5e-4)])
    assert not found.holds_back(at(8), at(8))
    assert found.up_to(at(8)) == [Settlement(BTC, at(8), 5e-4), Settlement(ETH, at(8), 5e-4)]


def test_a_stream_that_begins_a_moment_after_a_settlement_hides_none() -> None:
    found = known(silent=True)
    found.up_to(at(0))
    # Also from a clock that has not come so far.
    found.take(BTC, 3e-4, at(8) + SECOND, at(16))
    assert found.gaps(at(7.9)) == [Gap(BTC, at(0), at(7))]
    assert found.holds_back(at(8), at(8) + SECOND)


def test_where_a_stream_says_that_a_settlement_comes_later_it_does() -> None:
    found = known(silent=True)
    found.up_to(at(0))
    for name in (BTC, ETH):
        found.take(name, 3e-4, at(7), at(12))
    assert not found.holds_back(at(11.75), at(11.75))
    assert found.gaps(at(11.75)) == []
    assert found.holds_back(at(12), at(12))


def test_a_settlement_that_only_time_expects_is_never_booked_at_a_guess() -> None:
    found = known(silent=True)
    found.up_to(at(0))
    assert found.holds_back(at(8), at(8))
    assert not found.holds_back(at(8), at(8) + 5 * SECOND)
    assert (found.up_to(at(8)), found.counts.estimated) == ([], 0)
    assert not found.holds_back(at(9), at(9))
    # It is asked for on; listed late, it counts.
    assert found.gaps(at(9)) == [Gap(BTC, at(1), at(9)), Gap(ETH, at(1), at(9))]
    found.answered(BTC, [(at(8), 5e-4)])
    assert found.up_to(at(9)) == [Settlement(BTC, at(8), 5e-4)]
    # What was none is forgotten once there is a later one.
    found.answered(ETH, [(at(12), 6e-4)])
    assert found.corrected() == []
    assert found.gaps(at(12)) == []


def test_several_settlements_that_were_missed_come_in_order() -> None:
    found = known()
    found.up_to(at(0))
    found.take(BTC, 3e-4, at(7), at(8))
    assert found.holds_back(at(24), at(25))
    assert found.gaps(at(25)) == [Gap(BTC, at(0), at(25))]
    found.answered(BTC, [(at(24), 3e-4), (at(8), 1e-4), (at(16), 2e-4)])
    assert [one.ts for one in found.up_to(at(24))] == [at(8), at(16), at(24)]
    assert found.last(BTC) == at(24)


def test_rates_that_are_no_numbers_and_strangers_are_left_out() -> None:
    found = known()
    found.up_to(at(0))
    found.take(BTC, math.nan, at(8), at(8))
    found.take("XRPUSDT-PERP.BINANCE", 1e-4, at(8), at(8))
    assert found.answered(BTC, [(at(8), math.inf)]) == 0
    assert found.up_to(at(8)) == []
    assert found.counts.refused == 1
    # A settlement that is not on an hour stays where it is.
    found.answered(BTC, [(at(9) + 1_500 * 10**6, 1e-4)])
    assert found.up_to(at(10)) == [Settlement(BTC, at(9) + 1_500 * 10**6, 1e-4)]
