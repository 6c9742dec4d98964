"""What others do on the account beside an engine is none of its affair, and does it no harm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.live.engine_world import ENGINE, EngineMarket, EngineProcess
from tests.live.test_engine import on, signed


def trade(url: str, symbol: str, side: str, quantity: str, **more: Any) -> None:
    order = {"symbol": symbol, "side": side, "type": "MARKET", "quantity": quantity, **more}
    signed(url, "POST", "/fapi/v1/order", **order)


@pytest.mark.slow
def test_an_order_of_others_that_the_exchange_makes_smaller_ends_no_engine(
    tmp_path: Path,
) -> None:
    market = EngineMarket.make(tmp_path)
    options = ("--symbols", "BTCUSDT", "--name", ENGINE, "--equity", "30000")
    with (
        market.exchange() as exchange,
        EngineProcess(market, tmp_path / "state", (*on(exchange), *options)) as engine,
    ):
        engine.until(lambda status: status.state == "trading", "trading")
        for _ in range(3):
            trade(exchange.url, "ETHUSDT", "BUY", "2")
            # It covers what is held: the exchange says another quantity of it than was sent.
            trade(exchange.url, "ETHUSDT", "SELL", "5", reduceOnly="true")
        seen = engine.status()
        assert seen is not None
        engine.until(lambda status: status.counters.bars >= seen.counters.bars + 3, "more bars")
        time.sleep(1.0)
        assert engine.stop() == 0
        assert engine.log("error") == []
