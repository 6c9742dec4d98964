from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import AuditFailedError
from live.parity import compare

HOUR = 3_600_000_000_000
START = 1_700_000_000_000_000_000 // HOUR * HOUR


@dataclass(frozen=True)
class Frames:
    decisions: pd.DataFrame
    orders: pd.DataFrame
    fills: pd.DataFrame
    positions: pd.DataFrame
    funding: pd.DataFrame
    equity: pd.DataFrame
    predictions: pd.DataFrame
    guard: pd.DataFrame


def outcome(size: int = 6) -> Frames:
    ts = START + HOUR * np.arange(size, dtype=np.int64)
    ids = [f"O-{row}" for row in range(size)]
    name = ["BTCUSDT-PERP.BINANCE"] * size
    return Frames(
        decisions=pd.DataFrame(
            {
                "ts_init": ts,
                "instrument_id": name,
                "prob_up": np.linspace(0.4, 0.6, size),
                "side": np.arange(size) % 3 - 1,
                "target_weight": np.linspace(-0.1, 0.1, size),
                "reason": ["hold"] * size,
                "quantity": np.linspace(0.0, 1.0, size),
                "client_order_id": ids,
            }
        ),
        orders=pd.DataFrame(
            {
                "client_order_id": ids,
                "ts_init": ts,
                "instrument_id": name,
                "trigger_price": [np.nan] * size,
                "status": ["FILLED"] * size,
            }
        ),
        fills=pd.DataFrame(
            {
                "ts_event": ts + 1,
                "client_order_id": ids,
                "instrument_id": name,
                "price": np.linspace(100.0, 101.0, size),
            }
        ),
        positions=pd.DataFrame(
            {
                "instrument_id": name,
                "ts_opened": ts,
                "ts_closed": ts + HOUR,
                "realized_pnl": np.linspace(-1.0, 1.0, size),
            }
        ),
        funding=pd.DataFrame({"ts_event": ts, "instrument_id": name, "payment": np.ones(size)}),
        equity=pd.DataFrame({"ts_init": ts, "equity": np.linspace(1e4, 1.1e4, size)}),
        guard=pd.DataFrame(
            {
                "ts": ts,
                "kind": ["hold"] * size,
                "level": ["reducing"] * size,
                "reason": ["daily_loss"] * size,
                "detail": [""] * size,
            }
        ),
        predictions=pd.DataFrame(
            {
                "ts_init": ts,
                "instrument_id": name,
                "prob_up": np.linspace(0.4, 0.6, size),
                "mu": np.linspace(-1e-3, 1e-3, size),
                "sigma": np.full(size, 2e-3),
                "epistemic": [np.nan, *np.linspace(0.01, 0.02, size - 1)],
                "volatility": np.full(size, 1e-3),
                "prob_low": np.linspace(0.39, 0.59, size),
                "prob_high": np.linspace(0.41, 0.61, size),
                "entry_threshold": np.full(size, 0.56),
                "side": np.arange(size) % 3 - 1,
                "regime": ["trend"] * size,
                "degraded": [False] * size,
                "degraded_reason": [""] * size,
                "expert_lstm": np.linspace(0.3, 0.7, size),
                "weight_lstm": np.ones(size),
            }
        ),
    )


def changed(frames: Frames, name: str, column: str, row: int, value: object) -> Frames:
    frame = getattr(frames, name).copy()
    frame.loc[row, column] = value
    return replace(frames, **{name: frame})


def test_equal_runs_are_identical_and_every_row_is_counted() -> None:
    report = compare(outcome(), outcome())
    assert report.identical
    assert report.first is None
    assert set(report.compared.values()) == {6}
    assert len(report.compared) == 17
    assert str(report).endswith("identical")
    report.require_identical()


@pytest.mark.parametrize(
    ("frame", "column", "value", "kind"),
    [
        ("predictions", "prob_up", 0.47, "predictions"),
        ("predictions", "mu", 0.1, "returns"),
        ("predictions", "sigma", np.nan, "returns"),
        ("predictions", "epistemic", 0.1, "epistemic"),
        ("predictions", "volatility", 0.1, "returns"),
        ("predictions", "prob_low", 0.1, "limits"),
        ("predictions", "entry_threshold", 0.1, "stances"),
        ("predictions", "side", 5, "stances"),
        ("predictions", "regime", "neutral", "stances"),
        ("predictions", "degraded", True, "stances"),
        ("predictions", "expert_lstm", 0.1, "experts"),
        ("predictions", "weight_lstm", 0.9, "experts"),
        ("decisions", "prob_up", 0.47, "decisions"),
        ("guard", "level", "halted", "guard"),
        ("decisions", "side", 5, "sides"),
        ("decisions", "target_weight", 0.2, "target weights"),
        ("decisions", "reason", "no_signal", "reasons"),
        ("decisions", "quantity", 9.0, "quantities"),
        ("orders", "status", "CANCELED", "orders"),
        ("orders", "trigger_price", 99.0, "orders"),
        ("fills", "price", 100.5, "fills"),
        ("funding", "payment", 2.0, "settlements"),
        ("positions", "realized_pnl", 3.0, "positions"),
        ("equity", "equity", 1.0, "equity"),
    ],
)
def test_a_changed_value_is_found_and_named(
    frame: str, column: str, value: object, kind: str
) -> None:
    report = compare(outcome(), changed(outcome(), frame, column, 3, value))
    assert report.first is not None
    assert report.first.kind == kind
    assert "row 3, 2023-11-15 0" in report.first.text
    assert column in report.first.text
    assert report.differing[kind] == 1
    assert sum(report.differing.values()) == 1
    with pytest.raises(AuditFailedError, match=f"first difference: {kind}, row 3"):
        report.require_identical()


@settings(max_examples=30, deadline=None)
@given(row=st.integers(0, 5), up=st.booleans())
def test_a_difference_in_the_last_bit_is_found(row: int, up: bool) -> None:
    price = outcome().fills["price"][row]
    other = float(np.nextafter(price, np.inf if up else -np.inf))
    report = compare(outcome(), changed(outcome(), "fills", "price", row, other))
    assert report.first is not None
    assert repr(float(price)) in report.first.text
    assert repr(other) in report.first.text


def test_of_several_differences_the_earliest_is_named() -> None:
    live = changed(outcome(), "fills", "price", 2, 50.0)
    live = changed(live, "decisions", "prob_up", 4, 0.9)
    report = compare(outcome(), live)
    assert report.first is not None
    assert report.first.kind == "fills"


def test_at_one_time_the_cause_is_named_and_not_its_effect() -> None:
    live = changed(outcome(), "equity", "equity", 2, 50.0)
    live = changed(live, "decisions", "side", 2, 9)
    live = changed(live, "decisions", "prob_up", 2, 0.9)
    live = changed(live, "predictions", "prob_up", 2, 0.9)
    report = compare(outcome(), live)
    assert report.first is not None
    assert report.first.kind == "predictions"


@pytest.mark.parametrize("side", ["backtest", "live"])
def test_a_fill_that_only_one_run_has_is_found(side: str) -> None:
    short = replace(outcome(), fills=outcome().fills.iloc[:-1])
    runs = (outcome(), short) if side == "backtest" else (short, outcome())
    report = compare(*runs)
    assert report.first is not None
    assert f"O-5: exists only in the {side} run" in report.first.text


def test_a_row_out_of_order_is_named_with_both_identities() -> None:
    fills = outcome().fills.iloc[[0, 2, 1, 3, 4, 5]]
    report = compare(outcome(), replace(outcome(), fills=fills))
    assert report.first is not None
    assert "O-1 in the backtest and" in report.first.text
    assert report.differing["fills"] == 2


def test_other_columns_cannot_be_compared() -> None:
    live = replace(outcome(), fills=outcome().fills.rename(columns={"price": "cost"}))
    with pytest.raises(AuditFailedError, match="columns of fills must be the same"):
        compare(outcome(), live)


def test_the_json_says_what_the_table_says() -> None:
    report = compare(outcome(), changed(outcome(), "fills", "price", 3, 1.0))
    assert report.first is not None
    data = report.to_json()
    assert data["identical"] is False
    assert data["first_difference"]["text"] == report.first.text
    assert data["compared"]["fills"] == 6
    assert data["differing"]["fills"] == 1
    assert "fills" in str(report)


@pytest.mark.parametrize(
    ("frame", "column", "kind", "leeway"),
    [
        ("predictions", "prob_up", "predictions", 1.0),
        ("predictions", "expert_lstm", "experts", 1.0),
        ("predictions", "epistemic", "epistemic", 1.0),
        ("predictions", "mu", "returns", 0.01),
        ("predictions", "prob_high", "limits", 1.0),
        ("decisions", "prob_up", "decisions", 1.0),
        ("decisions", "target_weight", "target weights", 10.0),
    ],
)
def test_what_sequences_predict_may_differ_by_a_tolerance_that_is_told(
    frame: str, column: str, kind: str, leeway: float
) -> None:
    value = float(getattr(outcome(), frame).loc[3, column])
    inside, outside = value + 0.9 * leeway * 1e-5, value + 1.1 * leeway * 1e-5
    live = changed(outcome(), frame, column, 3, inside)
    assert not compare(outcome(), live).identical
    report = compare(outcome(), live, tolerance=1e-5)
    assert report.identical
    assert report.largest[kind] == pytest.approx(0.9 * leeway * 1e-5, rel=1e-6)
    assert sum(size > 0.0 for size in report.largest.values()) == 1
    assert f"{kind} differ by {report.largest[kind]:.1e} at most" in str(report)
    assert str(report).endswith("no other difference")
    assert report.to_json()["largest_difference"][kind] == report.largest[kind]
    far = compare(outcome(), changed(outcome(), frame, column, 3, outside), tolerance=1e-5)
    assert far.first is not None
    assert far.first.kind == kind
    assert column in far.first.text


@pytest.mark.parametrize(
    ("frame", "column", "kind"),
    [
        ("decisions", "quantity", "quantities"),
        ("fills", "price", "fills"),
        ("equity", "equity", "equity"),
        ("positions", "realized_pnl", "positions"),
    ],
)
def test_no_tolerance_reaches_what_is_decided_ordered_and_filled(
    frame: str, column: str, kind: str
) -> None:
    value = getattr(outcome(), frame).loc[3, column]
    live = changed(outcome(), frame, column, 3, np.nextafter(value, np.inf))
    report = compare(outcome(), live, tolerance=1e-5)
    assert report.first is not None
    assert report.first.kind == kind


def test_a_number_that_one_side_lacks_is_outside_any_tolerance() -> None:
    live = changed(outcome(), "predictions", "mu", 3, np.nan)
    report = compare(outcome(), live, tolerance=1.0)
    assert report.first is not None
    assert report.first.kind == "returns"


def test_ages_of_inputs_are_not_compared_and_experts_only_where_there_are_some() -> None:
    live = outcome()
    live = replace(live, predictions=live.predictions.assign(age_news=1.0))
    assert compare(outcome(), live).identical
    bare = [
        replace(one, predictions=one.predictions.drop(columns=["expert_lstm", "weight_lstm"]))
        for one in (outcome(), live)
    ]
    report = compare(*bare)
    assert report.identical
    assert "experts" not in report.compared
    with pytest.raises(AuditFailedError, match="columns of predictions must be the same"):
        compare(outcome(), bare[0])
