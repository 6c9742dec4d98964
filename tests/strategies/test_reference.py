"""The engine against a slow, literal account of what should have happened.

The reference knows nothing of the engine or of our ledger: it walks bar by bar over plain lists,
counts money in fractions, and holds cash in full (buying spends it, selling returns it).
"""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pandas as pd
import pytest

from strategies import backtest
from strategies.backtest import FusionPolicy, run_backtest

TICKS = {"BTC": Fraction(1, 10), "ETH": Fraction(1, 100), "SOL": Fraction(1, 1000)}
STEPS = {"BTC": Fraction(1, 1000), "ETH": Fraction(1, 1000), "SOL": Fraction(1, 100)}
NOTIONALS = {"BTC": 100, "ETH": 20, "SOL": 5}
LATENCY = 50_000_000
EIGHT_HOURS = 8 * 3600 * 10**9


def frac(value):
    return Fraction(repr(float(value)))


class Reference:
    """One account, one loop over bars."""

    def __init__(self, bars, volumes, probs, rates, policy, execution):
        self.bars = bars  # name -> {index: (open, high, low, close)}
        self.volumes = volumes  # name -> [volume of each index]
        self.traded = {}
        self.probs, self.rates = probs, rates
        self.policy, self.execution = policy, execution
        self.cash = frac(execution.starting_balance)
        self.held = dict.fromkeys(bars, Fraction(0))
        self.last = {}
        self.stop = {}
        self.since = {}
        self.orders = {name: [] for name in bars}
        self.fills, self.payments, self.reasons = [], [], []

    def run(self, count, start, interval):
        for index in range(count):
            opened, closed = start + index * interval, start + (index + 1) * interval
            for name in self.bars:
                self.at_open(name, index, opened + LATENCY)
            for name in self.bars:
                self.inside(name, index, closed)
            for name in self.bars:
                self.decide(name, index, closed, interval)

    def key(self, name):
        return name[:3]

    def trade(self, name, side, quantity, reference, ts, reason):
        bps = frac(self.execution.slippage_bps + self.impact(name, quantity)) / 10_000
        tick = TICKS[self.key(name)]
        exact = reference * (1 + side * bps) / tick
        price = (math.ceil(exact) if side > 0 else math.floor(exact)) * tick
        fee = round(quantity * price * frac(self.execution.taker_fee_bps) / 10_000, 8)
        self.cash -= side * quantity * price + fee
        self.held[name] += side * quantity
        self.fills.append((ts, name, side, float(quantity), float(price), float(fee), reason))
        if self.held[name] == 0:
            self.stop.pop(name, None)
        return price

    def impact(self, name, quantity):
        full, cap = self.execution.impact_bps, self.execution.impact_cap_bps
        if full == 0.0:
            return 0.0
        volume = self.traded.get(name, 0.0)
        return min(cap, full * math.sqrt(float(quantity) / volume)) if volume else cap

    def taken(self, name, quantity):
        limit = self.execution.max_participation
        if limit is None:
            return quantity
        step = STEPS[self.key(name)]
        most = math.floor(frac(self.traded.get(name, 0.0)) * frac(limit) / step) * step
        return min(quantity, max(most, step))

    def at_open(self, name, index, ts):
        if index not in self.bars[name]:
            return  # whatever waits goes on waiting
        price = frac(self.bars[name][index][0])
        self.check_stop(name, price, price, price, ts)
        pending, self.orders[name] = self.orders[name], []
        for closing, side, quantity, reason in pending:
            if closing and self.held[name] == 0:
                continue  # the stop was faster
            before = self.held[name]
            filled = self.trade(name, side, self.taken(name, quantity), price, ts, reason)
            # What is left of a position that is only made smaller keeps its stop.
            opened = before * side <= 0 < self.held[name] * side
            if opened and self.policy.stop_loss_frac is not None:
                exact = filled * (1 - side * frac(self.policy.stop_loss_frac))
                ticks = exact / TICKS[self.key(name)]
                rounded = math.ceil(ticks) if side > 0 else math.floor(ticks)
                self.stop[name] = rounded * TICKS[self.key(name)]

    def check_stop(self, name, open_, high, low, ts):
        if name not in self.stop:
            return
        trigger, held = self.stop[name], self.held[name]
        if held > 0 and low <= trigger:
            self.trade(name, -1, held, min(trigger, open_), ts, "stop_loss")
        elif held < 0 and high >= trigger:
            self.trade(name, 1, -held, max(trigger, open_), ts, "stop_loss")

    def inside(self, name, index, ts):
        if index not in self.bars[name]:
            self.settle(name, ts)
            return
        open_, high, low, close = (frac(value) for value in self.bars[name][index])
        self.check_stop(name, open_, high, low, ts)
        self.last[name] = close
        self.traded[name] = self.volumes[name][index]
        # What a stop of this bar has closed is not held at the settlement that ends it.
        self.settle(name, ts)

    def settle(self, name, ts):
        rate = self.rates.get(name, {}).get(ts)
        if rate is None or self.held[name] == 0:
            return
        payment = round(-self.held[name] * self.last[name] * frac(rate), 8)
        self.cash += payment
        self.payments.append((ts, name, float(payment)))

    def equity(self):
        return self.cash + sum(
            held * self.last[name] for name, held in self.held.items() if held != 0
        )

    def decide(self, name, index, ts, interval):  # noqa: C901 - literal on purpose
        prob = self.probs.get((name, index))
        if prob is None or index not in self.bars[name]:
            return
        complete = all(index in own for own in self.bars.values())
        policy, held = self.policy, self.held[name]
        up = prob >= policy.entry_threshold
        down = 1.0 - prob >= policy.entry_threshold
        wanted = 1 if up else -1 if down else 0
        side = (held > 0) - (held < 0)
        bars_held = (ts - self.since.get(name, ts)) // interval
        if side == 0:
            if not wanted:
                reason, target = "no_signal", 0
            elif not complete:
                reason, target = "degraded", 0
            elif wanted < 0 and not policy.allow_short:
                reason, target = "short_not_allowed", 0
            else:
                reason, target = ("enter_long" if up else "enter_short"), wanted
        elif wanted == -side:
            if complete and (wanted > 0 or policy.allow_short):
                reason, target = ("reverse_to_long" if up else "reverse_to_short"), wanted
            else:
                reason, target = "exit_opposite", 0
        elif bars_held < policy.min_holding_bars:
            reason, target = "hold_minimum", side
        elif (prob if side > 0 else 1.0 - prob) < policy.exit_threshold:
            reason, target = "exit_threshold", 0
        else:
            reason, target = "hold", side
        quantity = Fraction(0)
        if target not in (0, side):
            share = policy.position_frac * (0.5 + 0.5 * abs(2.0 * prob - 1.0))
            step = STEPS[self.key(name)]
            quantity = math.floor(self.equity() * frac(share) / self.last[name] / step) * step
            if quantity * self.last[name] < NOTIONALS[self.key(name)] or quantity < step:
                quantity, target = Fraction(0), 0
                reason = "exit_opposite" if side else "below_minimum"
        self.reasons.append((ts, name, reason))
        if target == side:
            return
        if side:
            self.orders[name].append((True, -side, abs(held), reason))
        if quantity:
            self.since[name] = ts
            self.orders[name].append((False, target, quantity, reason))


def scenario(seed, market):
    draw, more = random.Random(seed), random.Random(1_000 + seed)
    names = [market.BTC, market.ETH, market.SOL][: draw.randint(1, 3)]
    decimals = {"BTC": 1, "ETH": 2, "SOL": 3}
    count = 80
    bars, volumes, probs, rates, arrays = {}, {}, {}, {}, []
    for name in names:
        price = {"BTC": 30_000.0, "ETH": 2_000.0, "SOL": 100.0}[name[:3]]
        rows = []
        for _ in range(count):
            price *= math.exp(draw.gauss(0, 0.003))
            open_ = price
            close = price * math.exp(draw.gauss(0, 0.006))
            high = max(open_, close) * (1 + abs(draw.gauss(0, 0.003)))
            low = min(open_, close) * (1 - abs(draw.gauss(0, 0.003)))
            rows.append(tuple(round(v, decimals[name[:3]]) for v in (open_, high, low, close)))
            price = close
        missing = [i for i in range(1, count) if len(names) > 1 and draw.random() < 0.03]
        bars[name] = {i: row for i, row in enumerate(rows) if i not in missing}
        # Of an order's own size, and now and then next to nothing (the engine does not look at
        # the range of a bar in which less than four lots were traded).
        size = 10_000.0 / rows[0][0] * more.random()
        volumes[name] = [max(0.04, round(size * more.choice([0, 1, 2]), 2)) for _ in rows]
        arrays.append(market.bars(rows, name, missing=missing, volumes=volumes[name]))
        for index in range(count):
            if draw.random() < 0.9:
                probs[name, index] = draw.uniform(0.02, 0.98)
        times = range(market.START, market.close_time(count), EIGHT_HOURS)
        rates[name] = {ts: round(draw.gauss(0, 5e-4), 8) for ts in times}
    policy = FusionPolicy(
        entry_threshold=draw.choice([0.55, 0.7, 0.9]),
        exit_threshold=draw.choice([0.4, 0.5]),
        position_frac=draw.choice([0.1, 0.5, 1.0]),
        allow_short=draw.random() < 0.7,
        stop_loss_frac=draw.choice([None, 0.004, 0.02]),
        min_holding_bars=draw.choice([0, 1, 4]),
    )
    execution = market.execution(
        slippage_bps=draw.choice([0.0, 1.0, 2.5]),
        taker_fee_bps=draw.choice([0.0, 4.0, 5.5]),
        starting_balance=draw.choice([5_000.0, 100_000.0]),
        funding="recorded",
        impact_bps=more.choice([0.0, 15.0, 40.0]),
        impact_cap_bps=more.choice([5.0, 35.0]),
        max_participation=more.choice([None, None, 0.3, 1.0]),
    )
    return names, bars, volumes, arrays, probs, rates, policy, execution


@pytest.mark.parametrize("seed", range(50))
def test_engine_and_reference_agree(market, seed):
    names, bars, volumes, arrays, probs, rates, policy, execution = scenario(seed, market)
    by_index = {}
    for (name, index), prob in probs.items():
        by_index.setdefault(index, {})[name] = prob
    out = run_backtest(
        market.inputs(*arrays, funding={name: market.funding(rates[name], name) for name in names}),
        market.predictor(by_index, names),
        policy,
        execution,
    )
    reference = Reference(bars, volumes, probs, rates, policy, execution)
    reference.run(80, market.START, market.INTERVAL)

    decided = out.decisions.sort_values(["ts_init", "instrument_id"], kind="stable")
    assert sorted(reference.reasons) == list(
        decided[["ts_init", "instrument_id", "reason"]].itertuples(index=False, name=None)
    )
    columns = ["ts_event", "instrument_id", "side", "quantity", "price", "commission", "reason"]
    found = sorted(out.fills[columns].itertuples(index=False, name=None))
    wanted = sorted(reference.fills)
    assert len(found) == len(wanted) > 0
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours[:3] == theirs[:3]
        assert ours[6] == theirs[6]
        assert ours[3:6] == pytest.approx(theirs[3:6], abs=1e-9)
    paid = sorted(
        out.funding[["ts_event", "instrument_id", "payment"]].itertuples(index=False, name=None)
    )
    assert [row[:2] for row in paid] == [row[:2] for row in sorted(reference.payments)]
    assert [row[2] for row in paid] == pytest.approx(
        [row[2] for row in sorted(reference.payments)], abs=1e-9
    )
    assert out.equity.equity.iloc[-1] == pytest.approx(float(reference.equity()), abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("records", [1, 50])
def test_a_replay_in_parts_is_that_in_one_piece(market, monkeypatch, seed, records):
    names, _, _, arrays, probs, rates, policy, execution = scenario(seed, market)
    by_index = {}
    for (name, index), prob in probs.items():
        by_index.setdefault(index, {})[name] = prob

    def run():
        funding = {name: market.funding(rates[name], name) for name in names}
        inputs = market.inputs(*arrays, funding=funding)
        return run_backtest(inputs, market.predictor(by_index, names), policy, execution)

    whole = run()
    monkeypatch.setattr(backtest, "PART_RECORDS", records)
    parts = run()
    for name in ("decisions", "orders", "fills", "positions", "funding", "equity"):
        pd.testing.assert_frame_equal(getattr(parts, name), getattr(whole, name), check_exact=True)
    assert parts.reconciliation == whole.reconciliation
    assert len(whole.fills) > 0
