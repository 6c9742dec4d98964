"""A market of constructed bars, and predictions at will."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.strategies.markets import (
    BTC,
    ETH,
    INTERVAL,
    SOL,
    START,
    close_time,
    flat_bars,
    make_bars,
    make_funding,
    make_inputs,
    make_predictor,
    make_spec,
)
from tests.strategies.settings import plain_execution


@pytest.fixture(scope="session")
def market() -> SimpleNamespace:
    """The builders above: test modules cannot import from here."""
    return SimpleNamespace(
        INTERVAL=INTERVAL,
        START=START,
        BTC=BTC,
        ETH=ETH,
        SOL=SOL,
        close_time=close_time,
        bars=make_bars,
        flat=flat_bars,
        funding=make_funding,
        spec=make_spec,
        predictor=make_predictor,
        inputs=make_inputs,
        execution=plain_execution,
    )
