"""The guard: what may be held, and what losses do."""

import pytest

from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND
from strategies.guard_orders import Allowed, Reduced
from strategies.guard_state import Block
from tests.strategies.guards import (
    BTC,
    DRAWDOWN_OFF,
    EVERYTHING,
    NAMES,
    START,
    book,
    intent,
    kinds,
    make,
)

# ---- what is held


def test_an_order_within_every_limit_passes_as_it_is():
    assert make().check(intent(), book()) == Allowed(1.0)


@pytest.mark.parametrize("side", [1, -1])
def test_an_order_beyond_the_share_is_made_smaller_and_rounded_down(side):
    found = make().check(intent(quantity=500.0, side=side, price=77.7), book())
    assert isinstance(found, Reduced)
    assert (found.quantity, found.why) == (257.4, "max_symbol_share")
    assert found.quantity * 77.7 <= 20_000 < (found.quantity + 0.001) * 77.7
    assert "must be worth at most 20000.00 USDT, was to be 38850.00" in found.detail


def test_the_largest_position_in_usd_counts_where_it_is_smaller():
    guard = make(max_position_usd=1_000.0)
    assert guard.check(intent(quantity=50.0), book())[:2] == (10.0, "max_position_usd")


def test_what_is_held_and_under_way_leaves_less_room():
    guard = make()
    known = book({BTC: 150.0}, buying={BTC: 30.0})
    assert guard.check(intent(quantity=50.0), known)[:2] == (20.0, "max_symbol_share")
    full = book({BTC: 150.0}, buying={BTC: 50.0})
    assert guard.check(intent(quantity=1.0), full).why == "max_symbol_share"


def test_a_position_of_the_other_side_is_no_room():
    # Its stop may fill before the order does.
    assert make().check(intent(quantity=300.0, side=-1), book({BTC: 100.0})).quantity == 200.0


def test_a_position_that_would_be_too_small_is_refused():
    guard = make(min_position_usd=50.0)
    assert guard.check(intent(quantity=0.4), book()).why == "min_position_usd"
    assert guard.check(intent(quantity=0.4), book({BTC: 1.0})) == Allowed(0.4)


def test_what_is_left_of_an_order_must_be_enough_for_the_exchange():
    guard = make()
    nearly = book({BTC: 199.98})
    assert guard.check(intent(quantity=1.0), nearly).why == "below_minimum"
    assert guard.check(intent(quantity=1.0, min_quantity="0.05"), nearly).why == "below_minimum"
    assert guard.check(intent(quantity=1.0, min_notional="2"), nearly).quantity == 0.02


def test_fifteen_positions_refuse_the_sixteenth_but_not_more_of_one():
    guard = make()
    held = dict.fromkeys(NAMES[:15], 1.0)
    found = guard.check(intent(NAMES[15]), book(held))
    assert found.why == "max_positions"
    assert "must be at most 15" in found.detail
    assert guard.check(intent(NAMES[3]), book(held)) == Allowed(1.0)


def test_an_order_under_way_is_a_position_to_come():
    held = dict.fromkeys(NAMES[:13], -1.0)
    known = book(held, buying={NAMES[13]: 1.0}, selling={NAMES[14]: 1.0})
    assert make().check(intent(NAMES[15]), known).why == "max_positions"
    gone = book(held, buying={NAMES[13]: 0.0}, selling={NAMES[14]: 1.0})
    assert make().check(intent(NAMES[15]), gone) == Allowed(1.0)


@pytest.mark.parametrize("found", [False, True])
def test_five_correlated_longs_refuse_the_sixth(found):
    guard = make(correlation_groups={} if found else {"coins": NAMES[:8]})
    if found:
        guard.set_found_groups([frozenset(NAMES[:8])])
    held = dict.fromkeys(NAMES[:5], 1.0)
    refused = guard.check(intent(NAMES[5]), book(held))
    assert refused.why == "max_correlated"
    assert f"{NAMES[5]} moves with {NAMES[0]}" in refused.detail
    assert guard.check(intent(NAMES[4]), book(held)) == Allowed(1.0)
    assert guard.check(intent(NAMES[9]), book(held)) == Allowed(1.0)


def test_only_the_same_side_of_a_group_counts_where_the_policy_says_so():
    groups = {"coins": NAMES[:8]}
    held = dict.fromkeys(NAMES[:5], 1.0)
    short = intent(NAMES[5], side=-1)
    assert make(correlation_groups=groups).check(short, book(held)).why == "max_correlated"
    lenient = make(correlation_groups=groups, correlated_count="same_side")
    assert lenient.check(short, book(held)) == Allowed(1.0)
    assert lenient.check(intent(NAMES[5]), book(held)).why == "max_correlated"


# ---- losses


def test_at_the_daily_limit_everything_is_cancelled_flattened_and_blocked():
    guard = make()
    guard.on_positions(START, 3)
    guard.on_equity(START + NS_PER_HOUR, 97_000.01)
    assert guard.level == "normal"
    assert guard.actions(START + NS_PER_HOUR) == ()
    now = START + 2 * NS_PER_HOUR
    guard.on_equity(now, 97_000.0)
    assert (guard.level, guard.reasons) == ("reducing", "daily_loss")
    assert kinds(guard.actions(now)) == EVERYTHING
    assert guard.check(intent(ts=now), book(equity=97_000.0)).why == "halted"
    guard.on_positions(now + NS_PER_SECOND, 0)
    assert guard.level == "halted"
    assert kinds(guard.actions(now + NS_PER_HOUR)) == (Block,)


def test_the_next_utc_day_ends_a_halt_for_the_daily_loss():
    guard = make()
    guard.on_equity(START + NS_PER_HOUR, 96_000.0)
    guard.on_positions(START + NS_PER_HOUR, 0)
    last = START + NS_PER_DAY - 1
    guard.on_clock(last)
    assert guard.check(intent(ts=last), book(equity=96_000.0)).why == "halted"
    guard.on_data(START + NS_PER_DAY)
    assert guard.level == "normal"
    guard.on_equity(START + NS_PER_DAY, 96_000.0)
    assert guard.level == "normal"
    assert guard.state.day_start_equity == 96_000.0
    known = book(equity=96_000.0)
    assert guard.check(intent(ts=START + NS_PER_DAY), known) == Allowed(1.0)


def test_a_new_day_does_not_reopen_before_everything_is_flat():
    guard = make()
    guard.on_positions(START, 1)
    guard.on_equity(START + NS_PER_HOUR, 96_000.0)
    guard.on_clock(START + NS_PER_DAY)
    assert (guard.level, guard.reasons) == ("reducing", "daily_loss")
    guard.on_positions(START + NS_PER_DAY + 1, 0)
    assert guard.level == "normal"


def test_the_mark_at_midnight_closes_the_day_and_ends_trading_for_the_new_one():
    guard = make(**DRAWDOWN_OFF)
    guard.on_equity(START + NS_PER_DAY, 96_000.0)
    assert guard.reasons == "daily_loss"
    guard.on_positions(START + NS_PER_DAY, 0)
    guard.on_clock(START + 2 * NS_PER_DAY - 1)
    assert guard.level == "halted"
    guard.on_data(START + 2 * NS_PER_DAY)
    guard.on_equity(START + 2 * NS_PER_DAY, 96_000.0)
    assert "daily_loss" not in guard.reasons


def test_the_day_starts_with_its_first_mark():
    guard = make(**DRAWDOWN_OFF)
    guard.on_equity(START + NS_PER_DAY + NS_PER_HOUR, 110_000.0)
    guard.on_equity(START + NS_PER_DAY + 2 * NS_PER_HOUR, 106_800.0)
    assert guard.level == "normal"
    guard.on_equity(START + NS_PER_DAY + 2 * NS_PER_HOUR, 106_700.0)
    assert guard.reasons == "daily_loss"


def test_a_drawdown_outlasts_the_day_and_needs_a_person():
    guard = make(max_daily_loss=0.05, max_drawdown=0.1)
    for day, equity in enumerate((100_000.0, 96_000.0, 93_000.0, 90_000.0)):
        assert guard.level == "normal"
        guard.on_equity(START + day * NS_PER_DAY, equity)
    assert guard.reasons == "drawdown"
    now = START + 9 * NS_PER_DAY
    guard.on_positions(now, 0)
    guard.on_data(now)
    guard.on_equity(now, 99_000.0)
    assert guard.level == "halted"
    assert guard.release(now, "Ada") == "drawdown"
    # Losses count anew from here.
    guard.on_equity(now + 1, 95_000.0)
    assert guard.level == "normal"
    assert guard.state.peak_equity == 99_000.0


def test_the_peak_between_two_marks_counts():
    guard = make()
    guard.on_equity(START + 1, 99_000.0, peak=110_001.0)
    assert guard.reasons == "drawdown"


def test_a_loss_since_the_last_mark_is_seen_at_the_order():
    guard = make()
    assert guard.check(intent(), book(equity=96_999.0)).why == "halted"
    assert guard.reasons == "daily_loss"


def test_losses_in_a_row_end_the_day_and_a_gain_breaks_the_row():
    guard = make(max_consecutive_losses=3)
    for pnl in (-1.0, -1.0, 0.5, -1.0, -1.0, 0.0):
        guard.on_closed(START, pnl)
    assert guard.level == "normal"
    guard.on_closed(START, -0.01)
    assert guard.reasons == "consecutive_losses"
    # What the flattening closes is not counted.
    guard.on_closed(START, -5.0)
    assert guard.state.consecutive_losses == 3
    guard.on_positions(START, 0)
    guard.on_clock(START + NS_PER_DAY)
    assert (guard.level, guard.state.consecutive_losses) == ("normal", 0)
