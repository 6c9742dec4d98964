"""Thin markets in the real engine: what is limited, and what must get out all the same."""

from __future__ import annotations

from strategies.backtest import FusionPolicy, run_backtest
from strategies.risk_policy import RiskPolicy

NO_GROUPS = {
    **{"found_groups": None, "correlation_groups": {}},
    **{"sizing": {}, "max_symbol_share": 10.0},
}


def policy(**changes):
    fields = {"entry_threshold": 0.6, "exit_threshold": 0.5, "min_holding_bars": 0}
    return FusionPolicy(**{**fields, "position_frac": 0.5, **changes})


def flat(price):
    return (price,) * 4


def test_the_guard_flattens_whole_however_thin_the_market_is(market):
    rows = [flat(30_000)] * 3 + [(30_000, 30_000, 26_000, 26_000)] + [flat(26_000)] * 4
    bars = market.bars(rows, volumes=[20.0] * 2 + [1.0] * 6)
    out = run_backtest(
        market.inputs(bars),
        market.predictor(dict.fromkeys(range(7), 0.9)),
        policy(risk=RiskPolicy(**NO_GROUPS)),
        market.execution(max_participation=0.1, impact_bps=20.0, impact_cap_bps=15.0),
    )
    entry, flatten = out.fills.itertuples()
    assert (entry.quantity, flatten.quantity, flatten.reason) == (1.5, 1.5, "risk_guard")
    assert flatten.ts_event == market.close_time(3) + 50_000_000
    # More than the bar traded: the impact is at its cap of 15 bp.
    assert flatten.price == 25_961.0
    assert out.reconciliation.ledger_positions == {}


def test_a_reversal_in_a_thin_market_turns_round_bit_by_bit(market):
    bars = market.bars([flat(30_000)] * 8, volumes=[20.0] + [1.0] * 7)
    out = run_backtest(
        market.inputs(bars),
        market.predictor({0: 0.9, **dict.fromkeys(range(1, 7), 0.1)}),
        policy(stop_loss_frac=0.05),
        market.execution(max_participation=0.4),
    )
    # The exit and the entry of the other side each take their part of every bar, until the
    # position has changed its side; then it is held.
    assert out.fills.quantity.tolist() == [1.5, 0.4, 0.4, 0.4, 0.4]
    assert out.fills.side.tolist() == [1, -1, -1, -1, -1]
    assert out.positions.quantity.tolist() == [1.5, 0.1]
    stops = out.orders[out.orders.type == "STOP_MARKET"]
    assert stops[["side", "quantity", "status"]].values.tolist() == [
        [-1, 1.5, "CANCELED"],
        [1, 0.1, "OPEN_AT_END"],
    ]
    assert out.decisions.reason.tolist()[-1] == "hold"
