"""The walk over positions: silent on a true run with all sorts of exits; alterations are found."""

import copy
import random

import numpy as np
import pytest

from catalog.progress import no_progress
from strategies.backtest import Replay
from strategies.fill_check import FillCheck
from strategies.fill_rules import BarMarket
from strategies.protection_check import ProtectionCheck
from tests.strategies.settings import trailing_policy

POLICY = trailing_policy(position_frac=0.2)


@pytest.fixture(scope="module")
def replay(market):
    """A finished run in which stops were moved, refused and passed, and targets taken."""
    draw, count = np.random.default_rng(3), 500
    close = 30_000.0 * np.exp(np.cumsum(draw.normal(0, 0.003, count)))
    opened = np.concatenate(([30_000.0], close[:-1])) * np.exp(draw.normal(0, 0.002, count))
    high = np.maximum(opened, close) * np.exp(np.abs(draw.normal(0, 0.002, count)))
    low = np.minimum(opened, close) * np.exp(-np.abs(draw.normal(0, 0.002, count)))
    rows = np.round(np.stack([opened, high, low, close], axis=1), 1)
    chance = random.Random(4)
    done = Replay(
        market.inputs(market.bars([tuple(row) for row in rows.tolist()], missing=(60, 61, 300))),
        market.predictor({bar: chance.uniform(0.2, 0.8) for bar in range(count - 1)}),
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
        check = FillCheck(recorder, replay.fill_rules())
        return check.market_faults() + check.stop_faults() + check.refusals()[1]

    return call


def rows_of(recorder, kind, status=None, reason=None):
    return [
        row
        for row in recorder.orders.values()
        if row.type == kind
        and (status is None or row.status == status)
        and (reason is None or row.reason == reason)
    ]


def one_of(kind, status=None, reason=None):
    def find(recorder):
        rows = rows_of(recorder, kind, status, reason)
        return rows[len(rows) // 2]

    return find


MOVED = one_of("STOP_MARKET", "CANCELED", "trailing_stop")
REFUSED = one_of("STOP_MARKET", "REJECTED", "trailing_stop")
TARGET = one_of("MARKET_IF_TOUCHED", "CANCELED")
TAKEN = one_of("MARKET_IF_TOUCHED", "FILLED")
LEFT = one_of("MARKET", "FILLED", "trailing_stop")


def drop(find):
    def alter(recorder):
        del recorder.orders[find(recorder).client_order_id]

    return alter


def change(find, **changes):
    def alter(recorder):
        row = find(recorder)
        for name, value in changes.items():
            before = getattr(row, name)
            setattr(row, name, value if isinstance(value, str) else before + value)

    return alter


def twice(find):
    def alter(recorder):
        again = copy.copy(find(recorder))
        again.client_order_id = "again"
        recorder.orders["again"] = again

    return alter


def change_fill(find, **changes):
    def alter(recorder):
        name = find(recorder).client_order_id
        place = next(i for i, one in enumerate(recorder.fills) if one.client_order_id == name)
        fill = recorder.fills[place]
        recorder.fills[place] = fill._replace(
            **{key: getattr(fill, key) + by for key, by in changes.items()}
        )

    return alter


def test_a_true_run_has_no_faults_and_all_sorts_of_exits(replay, altered):
    assert altered(lambda recorder: None) == ()
    for find in (MOVED, REFUSED, TARGET, TAKEN, LEFT):
        assert find(replay.recorder) is not None
    rules = replay.fill_rules()
    check = ProtectionCheck(replay.recorder, rules, BarMarket(rules))
    assert check.ambiguous.exits > 3
    refused = {row.client_order_id for row in rows_of(replay.recorder, "STOP_MARKET", "REJECTED")}
    assert check.refused == refused


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (drop(MOVED), r"must have a stop (trailing_stop) sent at"),
        (drop(TARGET), "must have a target (take_profit) sent at"),
        (change(LEFT, reason="stop_refused"), "must have a market exit (trailing_stop) sent at"),
        (twice(MOVED), "stop again belongs to no position"),
        (twice(TARGET), "target again belongs to no position"),
        (change(MOVED, trigger_price=0.1), "must cover it at"),
        (change(MOVED, quantity=0.001), "must cover it at"),
        (change(MOVED, reason="stop_loss"), "must have a stop (trailing_stop) sent at"),
        (change(MOVED, ts_init=900 * 10**9), "must have a stop (trailing_stop) sent at"),
        (change(TARGET, trigger_price=-0.1), "must cover it at"),
        (change(TARGET, quantity=-0.001), "must cover it at"),
        (change(LEFT, quantity=0.001), "must cover it with"),
        (change(REFUSED, status="CANCELED"), "refused, because the market had passed it"),
        (change(MOVED, status="REJECTED"), "was REJECTED"),
        (change(TARGET, status="REJECTED"), "was REJECTED"),
        (change_fill(TAKEN, price=0.1), "must fill for"),
        (change_fill(TAKEN, quantity=-0.001), "must fill for"),
        (change_fill(TAKEN, ts_event=900 * 10**9), "must fill, but"),
    ],
)
def test_an_alteration_is_found(altered, alter, message):
    found = altered(alter)
    assert any(message in text for text in found), found
