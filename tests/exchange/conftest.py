"""A small market for the exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.synthetic import SyntheticConfig
from catalog.timestamps import parse_time
from live.synthesis import make_market
from tests.exchange.client import Client
from tests.exchange.runner import running_exchange
from tests.exchange.settings import ExchangeSettings

START = parse_time("2024-01-02")
type Opened = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="session")
def market_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalog of four synthetic days."""
    folder = tmp_path_factory.mktemp("exchange") / "catalog"
    make_market(folder, SyntheticConfig(days=4))
    return folder


@pytest.fixture
def settings(market_folder: Path) -> ExchangeSettings:
    """Return an exchange in lock-step that begins on the second day."""
    names = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
    return ExchangeSettings(market_folder, names, START, mode="lockstep")


@pytest.fixture
def opened(settings: ExchangeSettings) -> Opened:
    """Return what opens an exchange with changed settings, and a client of it."""

    @asynccontextmanager
    async def run(**changes: Any) -> AsyncIterator[Client]:
        async with (
            running_exchange(replace(settings, **changes)) as server,
            Client(server.url) as client,
        ):
            yield client

    return run
