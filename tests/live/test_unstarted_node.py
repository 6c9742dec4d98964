"""A node that cannot start ends its process before it takes the account's stream from others."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from nautilus_trader.config import DataClientConfig, ExecutionClientConfig
from nautilus_trader.live.clients import (
    DataClient,
    DataClientFactory,
    ExecutionClient,
    ExecutionClientFactory,
)
from nautilus_trader.model import AccountId, AccountType, Currency, OmsType, Venue

from adapters.venues import BINANCE
from catalog.errors import AwayError, DataError
from live import engine_exchange, node
from live.engine import FAILED
from live.engine_exchange import ExchangeEngine

BTC = "BTCUSDT-PERP.BINANCE"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Drop the frames behind the exception: they keep the node, and a process may have one."""
    yield
    gc.collect()


class Unreachable(DataClient):
    """Market data whose server does not answer."""

    async def _connect(self) -> None:
        raise OSError("refused")

    async def _disconnect(self) -> None:
        pass


def clients(ended: list[str]) -> node.NodeClients:
    class Orders(ExecutionClient):
        async def _connect(self) -> None:
            pass

        async def _disconnect(self) -> None:
            ended.append("listen key")

    class Data(DataClientFactory):
        @staticmethod
        def create(*, name: str, config: Any, cache: Any, clock: Any) -> Unreachable:
            return Unreachable(
                name=name, config=config, cache=cache, clock=clock, venue=Venue("BINANCE")
            )

    class Execution(ExecutionClientFactory):
        @staticmethod
        def create(
            *, name: str, config: Any, cache: Any, clock: Any, trader_id: Any
        ) -> ExecutionClient:
            return Orders(
                name=name,
                config=config,
                cache=cache,
                clock=clock,
                trader_id=trader_id,
                venue=Venue("BINANCE"),
                account_id=AccountId("BINANCE-001"),
                account_type=AccountType.MARGIN,
                oms_type=OmsType.NETTING,
                base_currency=Currency.from_str("USDT"),
            )

    others = (node.first_to_end(lambda: ended.append("process")),)
    data, execution = (Data, DataClientConfig()), (Execution, ExecutionClientConfig())
    return node.NodeClients("BINANCE", data, execution, others)


def test_who_is_first_to_end_is_asked_before_the_exchange_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, ended = node.LiveNodeConfig, list[str]()
    limits = {"timeout_connection_secs": 0.2, "timeout_disconnection_secs": 0.2}
    monkeypatch.setattr(node, "LiveNodeConfig", lambda **given: made(**{**given, **limits}))
    config = node.exchange_node_config((BTC,), asks=True)
    with pytest.raises(AwayError, match="BINANCE must answer a node that connects"):
        node.run_clients(clients(ended), config, lambda stop: None, [], [])
    assert ended[0] == "process"
    assert "listen key" in ended


@pytest.mark.parametrize("asked", [False, True])
def test_a_process_whose_node_does_not_start_leaves_as_one_that_stops(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    errors: list[Any] = []
    left: Any = SimpleNamespace(
        _request=SimpleNamespace(exchange=None, venue=BINANCE),
        _is_real=True,
        _slow=None,
        _leave=lambda error=None: errors.append(error),
        _leave_unstarted=lambda: ExchangeEngine._leave_unstarted(left),
        engine=SimpleNamespace(asked=lambda: asked),
    )
    monkeypatch.setattr(node, "_FirstToEnd", lambda ends, **_: ends)
    _, factory, config = ExchangeEngine._others(left)[0]
    factory.create(name="A", config=config, cache=None, clock=None)()
    assert [type(one) for one in errors] == [type(None) if asked else AwayError]
    left._is_real = False
    assert ExchangeEngine._others(left) == ()


def test_a_process_that_cannot_say_how_it_ended_is_gone_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(engine_exchange, "os", SimpleNamespace(_exit=codes.append))

    def ended(error: object) -> None:
        raise DataError("the disk is full")

    left: Any = SimpleNamespace(_is_real=True, engine=SimpleNamespace(ended=ended))
    ExchangeEngine._leave(left)
    assert codes == [FAILED]
    assert "the disk is full" in capsys.readouterr().err
