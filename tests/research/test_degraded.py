"""Shares of degraded predictions: reasons of a kind count as one, whatever numbers they name."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.circuit_breaker import flat_reason
from research.degraded import DegradedShare

SILENT = "no expert of the fusion answered"
UNDEFINED = "undefined features: funding_rate, funding_mean"


def test_reasons_of_a_kind_are_one_and_shares_are_of_all_predictions() -> None:
    old = flat_reason({"news": 12.0}, {"news": 8.0})
    older = flat_reason({"news": 40.5, "dvol_btc": math.nan}, {"news": 8.0, "dvol_btc": 8.0})
    found = DegradedShare.of(
        ["", UNDEFINED, "undefined features: lead_return_1", f"{UNDEFINED}; {SILENT}", old, older]
        + [""] * 3
        + ["no bar of ETHUSDT-PERP.BINANCE"]
    )
    assert found.frac == 0.6
    assert found.reasons == {
        "undefined features": 0.3,
        "news is too old": 0.2,
        "dvol_btc was never seen": 0.1,
        "no bar of another instrument": 0.1,
        SILENT: 0.1,
    }
    assert list(found.reasons)[:2] == ["undefined features", "news is too old"]
    assert found.as_dict() == {"degraded_frac": 0.6, "degraded_reasons": found.reasons}
    assert str(found).startswith("degraded: 60.00% (undefined features 30.00%, news is too old 20")


def test_none_and_nothing() -> None:
    assert str(DegradedShare.of(["", ""])) == "degraded: none"
    assert DegradedShare.of(["", ""]) == DegradedShare(0.0, {})
    assert math.isnan(DegradedShare.of([]).frac)


@given(st.lists(st.sampled_from(["", SILENT, UNDEFINED, f"{SILENT}; {UNDEFINED}"]), min_size=1))
def test_every_degraded_prediction_has_a_kind_and_no_kind_more_than_there_are(
    reasons: list[str],
) -> None:
    found = DegradedShare.of(reasons)
    assert found.frac == pytest.approx(sum(reason != "" for reason in reasons) / len(reasons))
    assert sum(found.reasons.values()) >= found.frac - 1e-12
    assert all(0.0 < share <= found.frac + 1e-12 for share in found.reasons.values())
