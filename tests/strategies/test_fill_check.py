"""The check of fills against bars: silent on a true run, and every single alteration is found."""

import copy
import random

import numpy as np
import pytest

from catalog.progress import no_progress
from strategies.backtest import FusionPolicy, Replay
from strategies.fill_check import FillCheck, FillRules

POLICY = FusionPolicy(
    entry_threshold=0.6,
    exit_threshold=0.5,
    position_frac=0.2,
    min_holding_bars=0,
    stop_loss_frac=0.004,
)


@pytest.fixture(scope="module")
def replay(market):
    """A finished run with every sort of ending: stops in bars and at opens, exits, open ones."""
    rng = np.random.default_rng(3)
    arrays = []
    names = (market.BTC, market.ETH)
    for name, start in zip(names, (30_000.0, 2_000.0), strict=True):
        close = start * np.exp(np.cumsum(rng.normal(0, 0.003, 400)))
        opened = np.concatenate(([start], close[:-1])) * np.exp(rng.normal(0, 0.002, 400))
        high = np.maximum(opened, close) * 1.001
        low = np.minimum(opened, close) * 0.999
        decimals = 1 if name == market.BTC else 2
        columns = (np.round(one, decimals) for one in (opened, high, low, close))
        gaps = (60, 61, 300) if name == market.BTC else (300,)
        arrays.append(market.bars(list(zip(*columns, strict=True)), name, missing=gaps))
    draw = random.Random(4)
    probs = {i: {name: draw.uniform(0.25, 0.75) for name in names} for i in range(400)}
    done = Replay(
        market.inputs(*arrays),
        market.predictor(probs, names),
        POLICY,
        market.execution(slippage_bps=1.5, impact_bps=3.0, impact_cap_bps=5.0),
    )
    done.run(no_progress)
    return done


@pytest.fixture
def altered(replay):
    """Alter a copy of the run's records, then return the faults found."""

    def call(alter):
        recorder = copy.deepcopy(replay.recorder)
        alter(recorder)
        rules = FillRules(replay.inputs.bars, replay.terms, replay.execution, POLICY.exit_rules)
        check = FillCheck(recorder, rules)
        return check.market_faults() + check.stop_faults() + check.refusals()[1]

    return call


def fills_of(recorder, kind):
    """Rows of the fills of market or stop orders."""
    return [
        row
        for row, fill in enumerate(recorder.fills)
        if recorder.orders[fill.client_order_id].type == kind
    ]


def change_fill(kind, **changes):
    def alter(recorder):
        rows = fills_of(recorder, kind)
        row = rows[len(rows) // 2]
        fill = recorder.fills[row]
        recorder.fills[row] = fill._replace(
            **{name: getattr(fill, name) + by for name, by in changes.items()}
        )

    return alter


def change_reference(kind):
    def alter(recorder):
        fill = recorder.fills[fills_of(recorder, kind)[-1]]
        recorder.references[fill.client_order_id] += 0.01

    return alter


def forget_reference(recorder):
    del recorder.references[recorder.fills[7].client_order_id]


def stop_orders(recorder):
    return [row for row in recorder.orders.values() if row.type == "STOP_MARKET"]


def drop_a_stop(recorder):
    del recorder.orders[stop_orders(recorder)[3].client_order_id]


def move_a_trigger(recorder):
    stop_orders(recorder)[3].trigger_price += 0.1


def halve_a_stop(recorder):
    stop_orders(recorder)[3].quantity /= 2.0


def double_a_stop(recorder):
    again = copy.copy(stop_orders(recorder)[3])
    again.client_order_id = "again"
    recorder.orders["again"] = again


def stray_stop(recorder):
    again = copy.copy(stop_orders(recorder)[3])
    again.client_order_id, again.ts_init = "again", again.ts_init + 1
    recorder.orders["again"] = again


def close_later(reason):
    """Keep a position for a bar longer than it was held: its stop must notice."""

    def alter(recorder):
        closed = recorder.ledger.closed
        row = next(i for i, one in enumerate(closed) if one.reason == reason and i > 5)
        closed[row] = closed[row]._replace(ts_closed=closed[row].ts_closed + 900 * 10**9)

    return alter


def stopped_without_cause(recorder):
    closed = recorder.ledger.closed
    row = next(i for i, one in enumerate(closed) if one.reason != "stop_loss")
    closed[row] = closed[row]._replace(reason="stop_loss")


def stopped_for_another_reason(recorder):
    closed = recorder.ledger.closed
    row = next(i for i, one in enumerate(closed) if one.reason == "stop_loss")
    closed[row] = closed[row]._replace(reason="exit_opposite")


def never_closed(recorder):
    """Take the last stopped position for open."""
    ledger = recorder.ledger
    row = max(i for i, one in enumerate(ledger.closed) if one.reason == "stop_loss")
    one = ledger.closed.pop(row)
    name = "never:" + one.instrument_id
    assert name not in ledger.positions
    held = copy.deepcopy(next(iter(ledger.positions.values())))
    held.ts_opened, held.average_open = one.ts_opened, one.average_open
    held.quantity, held.peak = one.side * one.quantity, one.quantity
    ledger.positions = {one.instrument_id: held}


def deny_an_entry(recorder):
    row = next(one for one in recorder.orders.values() if not one.reduce_only)
    row.status, row.detail = "DENIED", "the exchange's words"


def reject_an_exit(recorder):
    exits = [o for o in recorder.orders.values() if o.reduce_only and o.type == "MARKET"]
    row = next(one for one in exits if one.status == "FILLED")
    row.status, row.detail = "REJECTED", "the exchange's words"


def keep_an_order_waiting(recorder):
    next(iter(recorder.orders.values())).status = "ACCEPTED"


def test_a_true_run_has_no_faults_and_every_sort_of_ending(replay, altered):
    assert altered(lambda recorder: None) == ()
    found = replay.recorder
    interval = replay.inputs.bars[0].interval_ns
    stops = [found.fills[row].ts_event % interval == 0 for row in fills_of(found, "STOP_MARKET")]
    assert set(stops) == {True, False}
    assert found.ledger.positions
    refused = [row for row in found.orders.values() if row.status == "REJECTED"]
    assert len(refused) == len(replay.fill_check().refusals()[0]) > 0


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (change_fill("MARKET", ts_event=1), "must fill at"),
        (change_fill("MARKET", ts_event=-50_000_000), "must fill at"),
        (change_fill("MARKET", ts_event=900 * 10**9), "must fill at"),
        (change_fill("MARKET", price=0.01), "must fill at"),
        (change_fill("MARKET", quantity=-0.001), "must be filled with"),
        (change_fill("STOP_MARKET", price=0.01), "must fill for"),
        (change_reference("MARKET"), "must fill at"),
        (change_reference("STOP_MARKET"), "must fill for"),
        (forget_reference, "nan"),
        (drop_a_stop, "must have one stop, had 0"),
        (double_a_stop, "must have one stop, had 2"),
        (stray_stop, "again belongs to no position"),
        (move_a_trigger, "must cover it at"),
        (halve_a_stop, "must cover it at"),
        (close_later("stop_loss"), "where its stop"),
        (stopped_without_cause, "never reached its trigger"),
        (stopped_for_another_reason, "where its stop"),
        (never_closed, "was still held"),
        (deny_an_entry, "was DENIED: the exchange's words"),
        (reject_an_exit, "was REJECTED: the exchange's words"),
        (keep_an_order_waiting, "was still ACCEPTED"),
    ],
)
def test_an_alteration_is_found(altered, alter, message):
    found = altered(alter)
    assert any(message in text for text in found), found


def test_an_entry_that_asks_for_another_stop_is_found(altered):
    def alter(recorder):
        entry = next(row for row in recorder.orders.values() if not row.reduce_only)
        entry.stop_frac = 0.5

    (fault,) = altered(alter)[:1]
    assert "must ask for a stop between" in fault
    assert fault.endswith("asked for 0.5")
