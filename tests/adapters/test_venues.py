"""Venues: what is described is built, keys come from the environment and are never shown."""

from __future__ import annotations

import subprocess
import sys

import pytest

from adapters.connections import MASK, Connection, Keys
from adapters.venues import BINANCE, VENUES, venue_of
from catalog.errors import ConfigError

SECRET = "0x" + "1f" * 32


@pytest.mark.parametrize("name", sorted(VENUES))
def test_keys_come_from_the_environment_and_are_never_shown(name: str) -> None:
    venue = VENUES[name]
    for environment, names in venue.key_names.items():
        with pytest.raises(ConfigError, match=f"{names[0]}.* not set: export"):
            venue.keys(environment, {})
        keys = venue.keys(environment, dict.fromkeys(names, f"  {SECRET}\n"))
        assert keys.values == (SECRET,) * len(names)
        connection = Connection(environment, keys=keys)
        for shown in (repr(keys), str(keys), repr(connection), f"{keys}"):
            assert SECRET not in shown
        assert keys.mask(f"refused {SECRET}!") == f"refused {MASK}!"


def test_a_key_that_is_missing_is_named_and_one_that_is_there_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        BINANCE.keys("live", {"BINANCE_API_KEY": SECRET})
    assert "BINANCE_API_SECRET was not set" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", sorted(VENUES))
def test_every_venue_is_configured_for_both_environments_and_another_address(name: str) -> None:
    venue = VENUES[name]
    keys = Keys((SECRET,) * len(venue.key_names["live"]))
    for connection in (
        Connection("live", keys=keys),
        Connection("testnet", keys=keys),
        Connection("live", "http://127.0.0.1:9/", keys),
    ):
        data, execution = venue.data(connection), venue.execution(connection)
        assert SECRET not in repr(data.config) + repr(execution.config)
        if connection.base_url is not None:
            url = getattr(data.config, "base_url_http", None) or getattr(
                data.config, "base_url", ""
            )
            assert url in ("", "http://127.0.0.1:9")


_BUILD = """
import gc, sys
from nautilus_trader.common import Environment, LoggerConfig, LogLevel
from nautilus_trader.live import LiveNodeBuilder, LiveNodeConfig
from nautilus_trader.model import TraderId
from adapters.connections import Connection, Keys
from adapters.venues import VENUES
for name, venue in sorted(VENUES.items()):
    keys = Keys(("0x" + "11" * 32,) * len(venue.key_names["live"]))
    connection = Connection("live", "http://127.0.0.1:9", keys)
    config = LiveNodeConfig(
        environment=Environment.LIVE,
        trader_id=TraderId("LEVIBOT-001"),
        logging=LoggerConfig(stdout_level=LogLevel.ERROR),
    )
    node = (
        LiveNodeBuilder.from_config("levibot", config)
        .add_data_client(None, *venue.data(connection))
        .add_exec_client(None, *venue.execution(connection))
        .build()
    )
    node.dispose()
    del node
    gc.collect()
    print(name)
"""


def test_the_engine_builds_the_clients_of_every_venue() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BUILD], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == sorted(VENUES), done.stderr


def test_an_engine_has_one_venue_that_is_known() -> None:
    assert venue_of(["BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"]) is BINANCE
    with pytest.raises(ConfigError, match="must be of one venue, were of BINANCE, OKX"):
        venue_of(["BTCUSDT-PERP.BINANCE", "BTCUSDT-PERP.OKX"])
    with pytest.raises(ConfigError, match=r"venue of an engine must be one of .* was NOWHERE"):
        venue_of(["BTCUSDT-PERP.NOWHERE"])


@pytest.mark.parametrize("url", ["127.0.0.1:9", "ftp://host", "http://"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match="address of an exchange must look like http"):
        Connection("live", url)


def test_a_live_engine_runs_where_nothing_is_missing() -> None:
    BINANCE.require_runs()
    assert "orders" in " ".join(BINANCE.tried)
    for name, venue in VENUES.items():
        assert venue.untried
        if name == "binance":
            continue
        with pytest.raises(ConfigError, match=r"Binance USDT-M futures so far.*--replay") as caught:
            venue.require_runs()
        assert venue.title in str(caught.value)
        assert all(one in str(caught.value) for one in venue.missing)


def test_an_address_holds_no_secret_that_messages_would_show() -> None:
    with pytest.raises(ConfigError, match="must have no name and password") as told:
        Connection("live", "http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in str(told.value)
