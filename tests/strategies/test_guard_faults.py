"""The guard: what says that something is broken, people, time, and that it fails safe."""

import math

import pytest

import strategies.guard as guard_module
from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from strategies.guard import Guard
from strategies.guard_orders import REFUSALS, Allowed, Refused
from strategies.guard_state import HOLDS, MAX_HISTORY, NEXT_DAY, Block
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
    policy,
)

# ---- what says that something is broken


def test_rejections_within_an_hour_end_the_day():
    guard = make(max_rejected_orders=3)
    for minutes in (0, 50, 70, 115):
        guard.on_reject(START + minutes * NS_PER_MINUTE, "margin")
    assert guard.level == "normal"
    guard.on_reject(START + 120 * NS_PER_MINUTE, "margin")
    assert guard.reasons == "rejected_orders"
    assert "the last because of margin" in guard.state.holds["rejected_orders"].detail


@pytest.mark.parametrize(
    ("limits", "spacing"),
    [
        ({"max_orders_per_second": 3}, 0),
        ({"max_orders_per_second": 3, "max_orders_per_minute": 3}, 10 * NS_PER_SECOND),
    ],
)
def test_one_order_too_many_is_refused_and_ends_the_day(limits, spacing):
    guard = make(**limits)
    for number in range(3):
        assert guard.check(intent(NAMES[number], ts=START + number * spacing), book()).quantity
    refused = guard.check(intent(NAMES[3], ts=START + 3 * spacing), book())
    assert refused.why == "order_rate"
    assert guard.reasons == "order_rate"
    assert guard.check(intent(ts=START + NS_PER_HOUR), book()).why == "halted"


def test_orders_at_the_rate_pass_and_refused_ones_do_not_count():
    guard = make(max_orders_per_second=1, max_orders_per_minute=1)
    for number in range(5):
        now = START + number * NS_PER_MINUTE
        assert guard.check(intent(quantity=math.inf, ts=now), book()).why == "bad_quantity"
        assert guard.check(intent(ts=now), book()) == Allowed(1.0)


def test_what_only_reduces_is_never_refused_counted_or_made_smaller():
    guard = make(max_orders_per_second=1)
    closing = intent(quantity=1e9, reduce_only=True)
    for _ in range(1000):
        assert guard.check(closing, book()) == Allowed(1e9)
    assert guard.level == "normal"
    guard.halt(START, "stop")
    guard._holds.fail("broken")
    late = intent(quantity=3.0, price=math.nan, ts=0, reduce_only=True)
    assert guard.check(late, book(equity=-1.0)) == Allowed(3.0)


def test_without_data_the_day_ends_and_does_not_reopen_without_them():
    guard = make(max_data_age_secs=3_600.0)
    guard.on_positions(START, 0)
    assert guard.next_look_ns() == START + NS_PER_HOUR + 1
    guard.on_clock(START + NS_PER_HOUR)
    assert guard.level == "normal"
    guard.on_clock(guard.next_look_ns())
    assert guard.reasons == "stale_data"
    assert guard.next_look_ns() == START + NS_PER_DAY
    guard.on_clock(START + NS_PER_DAY)
    assert guard.level == "halted"
    guard.on_data(START + NS_PER_DAY + 1)
    assert guard.level == "normal"


def test_nothing_is_opened_in_an_instrument_whose_data_are_old_or_never_came():
    guard = make(max_data_age_secs=60.0)
    now = START + NS_PER_HOUR
    guard.on_data(now, NAMES[1], 100.0)
    assert guard.check(intent(NAMES[1], ts=now), book()) == Allowed(1.0)
    found = guard.check(intent(NAMES[2], ts=now), book())
    assert found.why == "stale_data"
    assert f"data of {NAMES[2]} must be at most 60 s old" in found.detail
    assert guard.level == "normal"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_price_or_an_equity_that_cannot_be_halts_until_a_person_releases(value):
    for tell, reason in (
        (lambda guard: guard.on_equity(START, value), "bad_equity"),
        (lambda guard: guard.on_equity(START, 100_000.0, value), "bad_equity"),
        (lambda guard: guard.on_data(START, BTC, value), "bad_price"),
        (lambda guard: guard.check(intent(price=value), book()), "bad_price"),
        (lambda guard: guard.check(intent(), book(equity=value)), "bad_equity"),
        (lambda guard: guard.on_fill(START, BTC, 1.0, value), "bad_fill"),
        (lambda guard: guard.on_fill(START, BTC, value, 1.0), "bad_fill"),
    ):
        guard = make()
        answer = tell(guard)
        assert guard.reasons == reason
        assert answer is None or answer.why == reason
        assert guard.check(intent(), book()).why == "halted"
        guard.on_positions(START, 0)
        guard.on_clock(START + 5 * NS_PER_DAY)
        assert reason in guard.reasons


def test_a_result_must_be_finite_and_a_quantity_usable():
    guard = make()
    assert guard.check(intent(quantity=math.nan), book()).why == "bad_quantity"
    assert guard.check(intent(quantity=0.0), book()).why == "bad_quantity"
    assert guard.level == "normal"
    guard.on_closed(START, math.nan)
    assert guard.reasons == "bad_fill"


# ---- kill switch, people


def test_the_kill_switch_holds_until_it_is_gone_and_a_person_releases():
    guard = make()
    guard.on_kill_switch(START)
    assert guard.reasons == "kill_switch"
    assert kinds(guard.actions(START)) == EVERYTHING
    guard.on_positions(START, 0)
    with pytest.raises(ConfigError, match="kill-switch file KILL_SWITCH must be gone before"):
        guard.release(START, "Ada")
    guard.on_kill_switch(START, present=False)
    guard.on_clock(START + 3 * NS_PER_DAY)
    assert guard.level == "halted"
    assert guard.release(START + 3 * NS_PER_DAY, "Ada") == "kill_switch"
    assert guard.level == "normal"


def test_a_person_halts_and_releases_only_when_flat():
    guard = make()
    guard.on_positions(START, 2)
    guard.halt(START, "Ada wants to look")
    with pytest.raises(ConfigError, match="must be flat before a release"):
        guard.release(START, "Ada")
    guard.on_positions(START, 0)
    guard.on_clock(START + NS_PER_DAY)
    assert guard.reasons == "manual"
    guard.release(START + NS_PER_DAY, "Ada")
    assert guard.level == "normal"


def test_an_unknown_reason_of_a_halt_still_halts():
    guard = make()
    guard.halt(START, "?", reason="mood")
    assert guard.reasons == "guard_failure"
    assert "reason must be one of daily_loss" in guard.state.holds["guard_failure"].detail


# ---- flattening


def test_flattening_is_asked_for_again_while_something_is_open():
    guard = make(flatten_retry_secs=2.0)
    guard.on_positions(START, 1)
    guard.halt(START, "now")
    assert kinds(guard.actions(START)) == EVERYTHING
    assert kinds(guard.actions(START + NS_PER_SECOND)) == (Block,)
    assert kinds(guard.actions(START + 2 * NS_PER_SECOND)) == EVERYTHING
    guard.on_positions(START + 3 * NS_PER_SECOND, 0)
    assert kinds(guard.actions(START + 9 * NS_PER_SECOND)) == (Block,)
    # An order that was under way has been filled after all.
    guard.on_positions(START + 10 * NS_PER_SECOND, 1)
    assert guard.level == "reducing"
    assert kinds(guard.actions(START + 10 * NS_PER_SECOND)) == EVERYTHING


def test_an_order_under_way_keeps_it_from_being_flat():
    guard = make()
    guard.on_positions(START, 0, n_orders=1)
    guard.halt(START, "now")
    assert guard.level == "reducing"
    guard.on_positions(START, 0, n_orders=0)
    assert guard.level == "halted"


def test_flat_or_not_the_flattening_is_asked_for_once():
    guard = make()
    guard.halt(START, "now")
    assert guard.level == "halted"
    assert kinds(guard.actions(START)) == EVERYTHING
    assert kinds(guard.actions(START)) == (Block,)


def test_an_order_that_was_let_pass_counts_as_open():
    guard = make()
    guard.check(intent(), book())
    guard.halt(START, "now")
    assert guard.level == "reducing"


# ---- time


def test_a_clock_that_jumps_back_is_refused():
    guard = make(max_clock_lag_secs=5.0)
    now = START + NS_PER_HOUR
    guard.on_data(now)
    guard.news()
    for back in (NS_PER_MINUTE, NS_PER_DAY):
        guard.on_clock(now - back)
    assert guard.state.ts == now
    assert [event.kind for event in guard.news()] == ["clock"]
    late = guard.check(intent(ts=now - 6 * NS_PER_SECOND), book())
    assert late.why == "clock"
    assert "must not be stamped more than 5 s before 2024-01-01 01:00:00" in late.detail
    assert guard.check(intent(ts=now - 5 * NS_PER_SECOND), book()) == Allowed(1.0)


def test_beside_recorded_data_that_play_fast_clocks_are_further_apart():
    guard = make(max_clock_lag_secs=5.0)
    guard.pace = 900.0
    now = START + NS_PER_HOUR
    guard.on_data(now)
    guard.on_clock(now - 4_500 * NS_PER_SECOND)
    assert guard.news() == ()
    assert guard.check(intent(ts=now - 4_500 * NS_PER_SECOND), book()) == Allowed(1.0)
    guard.on_clock(now - 4_501 * NS_PER_SECOND)
    assert [event.kind for event in guard.news()] == ["clock"]


def test_a_clock_that_goes_back_over_midnight_does_not_reopen_the_day_again():
    guard = make(**DRAWDOWN_OFF)
    guard.on_equity(START + NS_PER_DAY, 100_000.0)
    guard.on_equity(START + NS_PER_DAY - NS_PER_HOUR, 96_000.0)
    guard.on_positions(START + NS_PER_DAY, 0)
    guard.on_clock(START + NS_PER_DAY)
    assert guard.level == "halted"


def test_a_clock_that_jumps_a_day_rolls_it():
    guard = make(**DRAWDOWN_OFF)
    guard.on_equity(START + NS_PER_HOUR, 96_000.0)
    guard.on_positions(START + NS_PER_HOUR, 0)
    guard.on_clock(START + NS_PER_HOUR + NS_PER_DAY)
    assert guard.level == "normal"
    assert guard.state.day == START // NS_PER_DAY + 1


def test_a_person_may_set_back_a_clock_that_ran_ahead():
    guard = make(max_data_age_secs=3_600.0)
    guard.on_data(START + 400 * NS_PER_DAY)
    assert guard.check(intent(), book()).why == "clock"
    guard.on_positions(START, 0)
    guard.release(START, "Ada")
    assert guard.check(intent(), book()) == Allowed(1.0)
    guard.on_clock(START + 2 * NS_PER_HOUR)
    assert guard.reasons == "stale_data"


def test_the_end_of_the_day_is_looked_at():
    guard = Guard(policy())
    assert guard.next_look_ns() is None
    guard.on_equity(START + NS_PER_HOUR, 1.0)
    assert guard.next_look_ns() == START + NS_PER_DAY


# ---- another policy


def test_another_policy_counts_from_then_on_and_releases_nothing():
    guard = make()
    guard.adopt(START, policy(max_symbol_share=0.1))
    assert guard.check(intent(quantity=500.0), book()).quantity == 100.0
    guard.adopt(START, policy(max_daily_loss=0.01))
    guard.on_equity(START, 98_900.0)
    assert guard.reasons == "daily_loss"
    guard.adopt(START, policy(max_daily_loss=0.05))
    guard.on_equity(START, 98_900.0)
    assert guard.reasons == "daily_loss"
    guard.adopt(START, policy(correlation_groups={"a": NAMES[:2]}, max_correlated=1))
    assert guard.policy.max_correlated == 1


# ---- it fails safe


def test_an_exception_inside_check_blocks_trading(monkeypatch):
    guard = make()

    def broken(*_):
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(guard_module, "fit", broken)
    found = guard.check(intent(), book())
    assert found.why == "guard_failure"
    assert "broken on purpose" in found.detail
    monkeypatch.undo()
    assert guard.check(intent(), book()).why == "halted"
    assert guard.reasons == "guard_failure"
    assert kinds(guard.actions(START)) == EVERYTHING
    assert guard.check(intent(reduce_only=True), book()) == Allowed(1.0)
    guard.on_positions(START, 0)
    guard.on_data(START + NS_PER_DAY)
    assert guard.reasons == "guard_failure"
    guard.release(START + NS_PER_DAY, "Ada")
    assert guard.check(intent(ts=START + NS_PER_DAY), book()) == Allowed(1.0)


@pytest.mark.parametrize(
    "event",
    [
        lambda guard: guard.on_equity(START, None),
        lambda guard: guard.on_equity(None, 1.0),
        lambda guard: guard.on_data(START, BTC, "100"),
        lambda guard: guard.on_clock("now"),
        lambda guard: guard.on_closed(START, None),
        lambda guard: guard.on_fill(START, BTC, None, 1.0),
        lambda guard: guard.on_reject(None),
        lambda guard: guard.on_positions(None, 1),
        lambda guard: guard.on_kill_switch(None),
        lambda guard: guard.adopt(START, None),
        lambda guard: guard.halt(None, "x"),
        lambda guard: guard.check(intent(price=None), book()),
        lambda guard: guard.check(intent(), None),
        lambda guard: guard.check(intent(ts=None), book()),
        lambda guard: guard.set_found_groups([None]) or guard.check(intent(), book()),
    ],
)
def test_an_event_that_makes_no_sense_blocks_trading_and_raises_nothing(event):
    guard = make()
    event(guard)
    assert guard.reasons == "guard_failure"
    assert guard.check(intent(), book()).why == "halted"
    assert guard.actions(START) != ()


def test_a_state_that_is_broken_still_blocks():
    guard = make()
    guard.state.holds = None
    guard.on_equity(START, 96_000.0)
    assert guard._holds.failed
    assert guard.check(intent(), book()).why in ("guard_failure", "halted")
    assert kinds(guard.actions(START)) == EVERYTHING
    assert guard.check(intent(reduce_only=True), book()) == Allowed(1.0)


# ---- what is told


def test_what_happened_is_told_once_and_remembered():
    guard = make()
    guard.on_equity(START + NS_PER_HOUR, 96_000.0)
    guard.on_equity(START + NS_PER_HOUR, 95_000.0)
    (told,) = guard.news()
    assert (told.ts, told.kind, told.reason) == (START + NS_PER_HOUR, "hold", "daily_loss")
    assert told.level == "halted"
    assert told.detail == (
        "equity must stay above 97.00% of the day's start 100000.00 USDT, was 96000.00"
    )
    assert guard.news() == ()
    guard.on_data(START + NS_PER_DAY)
    assert [event.kind for event in guard.news()] == ["release"]
    assert [event.kind for event in guard.state.history] == ["hold", "release"]


def test_the_history_does_not_grow_without_end():
    guard = make()
    for _ in range(MAX_HISTORY + 50):
        guard.adopt(START, policy())
    assert len(guard.state.history) == MAX_HISTORY


def test_the_words_are_those_of_the_rules():
    daily = {reason for reason, release in HOLDS.items() if release == NEXT_DAY}
    assert daily == {
        "daily_loss",
        "consecutive_losses",
        "order_rate",
        "rejected_orders",
        "stale_data",
    }
    assert len(set(REFUSALS)) == len(REFUSALS) < 127
    assert isinstance(make().check(intent(quantity=-1.0), book()), Refused)
