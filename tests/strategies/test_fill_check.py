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


def stop_fills(recorder):
    return [recorder.fills[row] for row in fills_of(recorder, "STOP_MARKET")]


def close_later(recorder):
    """Keep a stopped position for a bar longer than it was held."""
    fill = stop_fills(recorder)[5]
    place = recorder.fills.index(fill)
    recorder.fills[place] = fill._replace(ts_event=fill.ts_event + 900 * 10**9)


def exit_of(recorder, after, *, stopped):
    """Place of a fill that ended a position, by its stop or not."""
    closed = [one for one in recorder.ledger.closed if (one.reason == "stop_loss") is stopped]
    closed = closed[after]
    return next(
        place
        for place, fill in enumerate(recorder.fills)
        if (fill.instrument_id, fill.ts_event) == (closed.instrument_id, closed.ts_closed)
        and fill.side == -closed.side
    )


def stopped_without_cause(recorder):
    """Take an exit by decision for one by the position's stop."""
    place = exit_of(recorder, 2, stopped=False)
    fill = recorder.fills[place]
    before = [o for o in stop_orders(recorder) if o.ts_init < fill.ts_event]
    stop = [o for o in before if o.instrument_id == fill.instrument_id][-1]
    recorder.fills[place] = fill._replace(client_order_id=stop.client_order_id)


def stopped_by_decision(recorder):
    """Take an exit by a stop for one by the market order of another time."""
    place = exit_of(recorder, 4, stopped=True)
    other = recorder.fills[exit_of(recorder, 2, stopped=False)]
    fill = recorder.fills[place]
    recorder.fills[place] = fill._replace(client_order_id=other.client_order_id)


def never_closed(recorder):
    """Leave out the last fill of a stop, after which its instrument is flat to the end."""
    last = {fill.instrument_id: fill for fill in recorder.fills}
    for fill in reversed(stop_fills(recorder)):
        later = last[fill.instrument_id].ts_event > fill.ts_event
        recorder.fills = [
            one
            for one in recorder.fills
            if one is not fill
            and not (
                later and one.instrument_id == fill.instrument_id and one.ts_event > fill.ts_event
            )
        ]
        return


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
        (drop_a_stop, "must have a stop (stop_loss) sent at"),
        (double_a_stop, "again belongs to no position"),
        (stray_stop, "again belongs to no position"),
        (move_a_trigger, "must cover it at"),
        (halve_a_stop, "must cover it at"),
        (close_later, "where its stop"),
        (stopped_without_cause, "never reached its trigger"),
        (stopped_by_decision, "where its stop"),
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
    assert "must have an entry that asks for a stop between" in fault
    assert fault.endswith("asked for 0.5")
