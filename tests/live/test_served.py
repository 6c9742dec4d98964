"""What a bundle says bar by bar is what it says at once, or the run is refused by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.errors import RunFailedError
from live.served import Served
from research.circuit_breaker import BreakerState

BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
START, STEP = 1_704_067_200 * 10**9, 900 * 10**9
GOOD = BreakerState("lightgbm", "closed", 9, 0, 0, 0, 4, None, "")
BAD = BreakerState("lstm", "open", 5, 2, 2, 7, 16, 99, "took 300.0 ms, more than 250 ms")


def frame(**changes: Any) -> pd.DataFrame:
    """Return predictions of three times and two instruments."""
    rng = np.random.default_rng(0)
    columns = {
        "ts_init": START + STEP * np.repeat(np.arange(3, dtype=np.int64), 2),
        "instrument_id": np.array([BTC, ETH] * 3, dtype=object),
        "prob_up": rng.uniform(0.4, 0.6, 6),
        "mu": rng.normal(0.0, 1e-3, 6),
        "sigma": np.array([np.nan, 1e-3, 1e-2, 2e-2, 1e-2, 1e-2]),
        "epistemic": np.full(6, np.nan),
        "degraded_reason": np.array([""] * 6, dtype=object),
        "expert_lightgbm": rng.uniform(0.4, 0.6, 6),
        "expert_lstm": np.array([np.nan, *rng.uniform(0.4, 0.6, 5)]),
        "weight_lstm": np.full(6, 0.5),
    }
    return pd.DataFrame({**columns, **changes})


def require(stream: pd.DataFrame, tolerance: float = 0.0, *states: BreakerState) -> None:
    Served.of(stream, states or (GOOD,)).require_equal(stream, frame(), tolerance)


def moved(column: str, row: int, by: float) -> pd.DataFrame:
    found = frame()
    found.loc[row, column] = found.loc[row, column] + by
    return found


def test_equal_predictions_pass_in_whatever_order_they_came() -> None:
    require(frame())
    require(frame().iloc[::-1])


@pytest.mark.parametrize(
    ("column", "least"),
    [
        ("prob_up", 1e-5),
        ("expert_lightgbm", 1e-5),
        ("expert_lstm", 1e-5),
        ("mu", 8e-7),
        ("sigma", 8e-7),
    ],
)
def test_a_difference_passes_up_to_the_tolerance_and_not_beyond(column: str, least: float) -> None:
    require(moved(column, 3, 0.9 * least), 1e-5)
    text = f"1 of 6 predictions differ; the first at 2024-01-01 00:15:00 {ETH}: {column} is "
    with pytest.raises(RunFailedError, match=text):
        require(moved(column, 3, 1.1 * least), 1e-5)
    with pytest.raises(RunFailedError, match=text):
        require(moved(column, 3, 0.9 * least), 0.0)


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("expert_lightgbm", 4, np.nan), ("expert_lstm", 0, 0.5), ("epistemic", 2, 0.1)],
)
def test_an_answer_on_one_side_only_is_a_difference(column: str, row: int, value: float) -> None:
    stream = frame()
    stream.loc[row, column] = value
    with pytest.raises(RunFailedError, match=f"1 of 6 predictions differ; .* {column} is {value}"):
        require(stream, 1e-5)


@pytest.mark.parametrize(("row", "least"), [(0, 4e-7), (1, 4e-7), (2, 4e-7), (3, 8e-7)])
def test_returns_may_differ_in_proportion_to_their_scale(row: int, least: float) -> None:
    require(moved("mu", row, 0.9 * least), 1e-5)
    with pytest.raises(RunFailedError, match="predictions differ"):
        require(moved("mu", row, 1.1 * least), 1e-5)


def test_the_first_difference_is_that_of_the_earliest_time() -> None:
    stream = moved("prob_up", 5, 0.1)
    stream.loc[2, "expert_lstm"] = 0.9
    with pytest.raises(RunFailedError, match=r"2 of 6 .*00:15:00 BTC.*: expert_lstm is 0\.9 bar"):
        require(stream)


def test_other_times_are_refused() -> None:
    with pytest.raises(RunFailedError, match=r"same times and instruments .* was of 5 and 6"):
        require(frame().iloc[1:])
    with pytest.raises(RunFailedError, match="was of 6 and 6"):
        require(frame(ts_init=frame()["ts_init"] + 1))


def test_experts_that_failed_are_named_with_their_last_words() -> None:
    told = (
        "Experts failed and were left out: lstm (trips: 2, failed: 2 of 5 calls, held back: 7; "
        "at last: took 300.0 ms, more than 250 ms)"
    )
    with pytest.raises(RunFailedError, match=re.escape(told)):
        require(moved("prob_up", 0, 0.1), 0.0, GOOD, BAD)
    with pytest.raises(RunFailedError, match="No expert failed: `levibot audit parity` shows"):
        require(moved("prob_up", 0, 0.1), 0.0, GOOD)


def test_the_record_has_every_breaker_and_the_share_of_degraded_rows() -> None:
    stream = frame(degraded_reason=["", "no bar of X", "", "", "", ""])
    record = Served.of(stream, (GOOD, BAD)).to_json()
    assert record["rows"] == 6
    assert record["degraded_frac"] == pytest.approx(1 / 6)
    assert record["degraded_reasons"] == {"no bar of another instrument": pytest.approx(1 / 6)}
    assert list(record["breakers"]) == ["lightgbm", "lstm"]
    assert record["breakers"]["lstm"] == {
        "status": "open",
        "calls": 5,
        "failures": 2,
        "trips": 2,
        "refusals": 7,
        "wait_bars": 16,
        "retry_slot": 99,
        "reason": "took 300.0 ms, more than 250 ms",
    }
