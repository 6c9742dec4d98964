"""The exchanges that a live node can be connected to, and what is known of each connection.

The engine ships the clients; this file says which of them is meant, with which settings, keys and
addresses, and what of it has been tried. `tried` is what a test of this repository proves against a
server on loopback; `untried` is everything that only the real exchange could show.

A live engine runs on Binance, on paper and with orders. For the other venues clients and keys are
configured, and the engine builds them, but no live engine starts there, on paper neither: `missing`
says what it lacks. Recorded data of any of them can be replayed.

Keys come from the environment and nowhere else. They are handed to the engine's client and kept in
no file, log or message (`adapters.connections`).

====================  =====================================  =======================================
venue                 keys for live                          keys for testnet
====================  =====================================  =======================================
binance               BINANCE_API_KEY, _SECRET               BINANCE_TESTNET_API_KEY, _SECRET
bybit                 BYBIT_API_KEY, _SECRET                 BYBIT_TESTNET_API_KEY, _SECRET
okx                   OKX_API_KEY, _SECRET, _PASSPHRASE      OKX_DEMO_API_KEY, _SECRET, _PASSPHRASE
hyperliquid           HYPERLIQUID_PRIVATE_KEY                HYPERLIQUID_TESTNET_PRIVATE_KEY
kraken                KRAKEN_API_KEY, _SECRET                KRAKEN_DEMO_API_KEY, _SECRET
====================  =====================================  =======================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapters.connections import Connection, Environment, Keys
from catalog.errors import ConfigError


class Client(NamedTuple):
    """A client of the engine: its factory, and its configuration for one connection."""

    factory: Any
    config: Any


@dataclass(frozen=True, slots=True)
class Venue:
    """An exchange that the engine has clients for.

    Parameters
    ----------
    name : str
        As people write it, such as ``binance``.
    venue : str
        As the engine and our instrument ids write it, such as ``BINANCE``.
    title : str
        For people.
    key_names : mapping of {"testnet", "live"} to tuple of str
        Environment variables that keys are read from.
    data, execution : callable
        The engine's clients for a connection.
    tried, untried : tuple of str
        What was proven here, and what was not.
    missing : tuple of str
        What a live engine lacks before it can run there; () where it runs.
    """

    name: str
    venue: str
    title: str
    key_names: Mapping[Environment, tuple[str, ...]]
    data: Callable[[Connection], Client]
    execution: Callable[[Connection], Client]
    tried: tuple[str, ...]
    untried: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def require_runs(self) -> None:
        """Refuse a live engine where none can run.

        Raises
        ------
        ConfigError
            Saying what is missing.
        """
        if self.missing:
            runs = ", ".join(one.title for one in VENUES.values() if not one.missing)
            raise ConfigError(
                f"a live engine must trade on {runs} so far, on paper as well, was "
                f"{self.title}: {'; '.join(self.missing)}. Recorded data of it can be replayed "
                "(--replay)"
            )

    def keys(self, environment: Environment, variables: Mapping[str, str] | None = None) -> Keys:
        """Return the keys of an account from the environment.

        Raises
        ------
        ConfigError
            Naming the variables that are not set; never showing one that is.
        """
        variables = os.environ if variables is None else variables
        names = self.key_names[environment]
        missing = [name for name in names if not variables.get(name, "").strip()]
        if missing:
            raise ConfigError(
                f"keys of {self.title} ({environment}) must be in the environment, "
                f"{', '.join(missing)} {'was' if len(missing) == 1 else 'were'} not set: export "
                f"them in the shell that starts the node, and never write them to a file"
            )
        return Keys(tuple(variables[name].strip() for name in names))

    def account_id(self, connection: Connection) -> str:
        """Return the engine's name of the account, such as ``BINANCE-001``."""
        return f"{self.venue}-{connection.account}"


def _pair(connection: Connection) -> tuple[str | None, ...]:
    """Return the keys of a connection, Nones where it has none."""
    return (None, None, None) if connection.keys is None else connection.keys.values


def _which(connection: Connection, live: Any, testnet: Any) -> Any:
    return live if connection.environment == "live" else testnet


def _binance_data(connection: Connection) -> Client:
    from nautilus_trader.adapters import binance

    return Client(
        binance.BinanceDataClientFactory(),
        binance.BinanceDataClientConfig(
            product_type=binance.BinanceProductType.USD_M,
            environment=_binance_environment(connection),
            base_url_http=connection.http,
            base_url_ws=connection.socket("/ws"),
            # Without it the client asks for every instrument's status once a minute.
            instrument_status_poll_secs=0,
            max_retries=5,
        ),
    )


def _binance_execution(connection: Connection) -> Client:
    from nautilus_trader.adapters import binance
    from nautilus_trader.model import AccountId

    key, secret, *_ = _pair(connection)
    return Client(
        binance.BinanceExecutionClientFactory(),
        binance.BinanceExecutionClientConfig(
            account_id=AccountId(BINANCE.account_id(connection)),
            product_type=binance.BinanceProductType.USD_M,
            environment=_binance_environment(connection),
            base_url_http=connection.http,
            base_url_ws=connection.socket("/ws"),
            base_url_ws_trading=connection.socket("/ws-fapi/v1"),
            api_key=key,
            api_secret=secret,
            # Positions of a one-way account: one for each instrument, whoever opened it.
            use_position_ids=False,
            # The rest of a market order that is filled or killed is a cancel to us.
            treat_expired_as_canceled=True,
            max_retries=3,
        ),
    )


def _binance_environment(connection: Connection) -> Any:
    from nautilus_trader.adapters.binance import BinanceEnvironment

    # A server of one's own speaks as the live one does: the testnet differs in its addresses.
    if connection.environment == "testnet" and connection.base_url is None:
        return BinanceEnvironment.TESTNET
    return BinanceEnvironment.LIVE


def _bybit_data(connection: Connection) -> Client:
    from nautilus_trader.adapters import bybit

    return Client(
        bybit.BybitDataClientFactory(),
        bybit.BybitDataClientConfig(
            product_types=[bybit.BybitProductType.LINEAR],
            environment=_which(
                connection, bybit.BybitEnvironment.MAINNET, bybit.BybitEnvironment.TESTNET
            ),
            base_url_http=connection.http,
            base_url_ws_public=connection.socket("/v5/public/linear"),
            bars_timestamp_on_close=True,
        ),
    )


def _bybit_execution(connection: Connection) -> Client:
    from nautilus_trader.adapters import bybit
    from nautilus_trader.model import AccountId

    key, secret, *_ = _pair(connection)
    return Client(
        bybit.BybitExecutionClientFactory(),
        bybit.BybitExecutionClientConfig(
            product_types=[bybit.BybitProductType.LINEAR],
            environment=_which(
                connection, bybit.BybitEnvironment.MAINNET, bybit.BybitEnvironment.TESTNET
            ),
            api_key=key,
            api_secret=secret,
            base_url_http=connection.http,
            base_url_ws_private=connection.socket("/v5/private"),
            base_url_ws_trade=connection.socket("/v5/trade"),
            account_id=AccountId(BYBIT.account_id(connection)),
        ),
    )


def _okx_data(connection: Connection) -> Client:
    from nautilus_trader.adapters import okx

    return Client(
        okx.OKXDataClientFactory(),
        okx.OKXDataClientConfig(
            instrument_types=[okx.OKXInstrumentType.SWAP],
            environment=_which(connection, okx.OKXEnvironment.LIVE, okx.OKXEnvironment.DEMO),
            base_url_http=connection.http,
            base_url_ws_public=connection.socket("/ws/v5/public"),
            base_url_ws_business=connection.socket("/ws/v5/business"),
        ),
    )


def _okx_execution(connection: Connection) -> Client:
    from nautilus_trader.adapters import okx
    from nautilus_trader.model import AccountId

    key, secret, passphrase = _pair(connection)
    return Client(
        okx.OKXExecutionClientFactory(),
        okx.OKXExecutionClientConfig(
            account_id=AccountId(OKX.account_id(connection)),
            instrument_types=[okx.OKXInstrumentType.SWAP],
            environment=_which(connection, okx.OKXEnvironment.LIVE, okx.OKXEnvironment.DEMO),
            api_key=key,
            api_secret=secret,
            api_passphrase=passphrase,
            base_url_http=connection.http,
            base_url_ws_private=connection.socket("/ws/v5/private"),
            base_url_ws_business=connection.socket("/ws/v5/business"),
        ),
    )


def _hyperliquid_data(connection: Connection) -> Client:
    from nautilus_trader.adapters import hyperliquid

    return Client(
        hyperliquid.HyperliquidDataClientFactory(),
        hyperliquid.HyperliquidDataClientConfig(
            environment=_which(
                connection,
                hyperliquid.HyperliquidEnvironment.MAINNET,
                hyperliquid.HyperliquidEnvironment.TESTNET,
            ),
            base_url_http=connection.http,
            base_url_ws=connection.socket("/ws"),
        ),
    )


def _hyperliquid_execution(connection: Connection) -> Client:
    from nautilus_trader.adapters import hyperliquid
    from nautilus_trader.model import AccountId

    return Client(
        hyperliquid.HyperliquidExecutionClientFactory(),
        hyperliquid.HyperliquidExecutionClientConfig(
            account_id=AccountId(HYPERLIQUID.account_id(connection)),
            private_key=_pair(connection)[0],
            environment=_which(
                connection,
                hyperliquid.HyperliquidEnvironment.MAINNET,
                hyperliquid.HyperliquidEnvironment.TESTNET,
            ),
            base_url_http=connection.http,
            base_url_ws=connection.socket("/ws"),
        ),
    )


def _kraken_data(connection: Connection) -> Client:
    from nautilus_trader.adapters import kraken

    return Client(
        kraken.KrakenDataClientFactory(),
        kraken.KrakenDataClientConfig(
            product_type=kraken.KrakenProductType.FUTURES,
            environment=_which(
                connection, kraken.KrakenEnvironment.LIVE, kraken.KrakenEnvironment.DEMO
            ),
            base_url=connection.http,
            ws_public_url=connection.socket("/ws/v1"),
        ),
    )


def _kraken_execution(connection: Connection) -> Client:
    from nautilus_trader.adapters import kraken
    from nautilus_trader.model import AccountId

    key, secret, *_ = _pair(connection)
    return Client(
        kraken.KrakenExecutionClientFactory(),
        kraken.KrakenExecutionClientConfig(
            AccountId(KRAKEN.account_id(connection)),
            key or "",
            secret or "",
            product_type=kraken.KrakenProductType.FUTURES,
            environment=_which(
                connection, kraken.KrakenEnvironment.LIVE, kraken.KrakenEnvironment.DEMO
            ),
            base_url=connection.http,
            ws_url=connection.socket("/ws/v1"),
        ),
    )


_BUILT = (
    "the engine builds both clients from this configuration and reads an address of one's own",
)
_UNTRIED = (
    "market data and their stamps",
    "sending, cancelling and filling of an order",
    "positions, balances and open orders after a restart",
    "the history of bars that a warm start asks for",
)


def _missing(symbol: str) -> tuple[str, ...]:
    """Return what is missing for a venue whose client has names of its own."""
    return (
        f"its client calls instruments such as {symbol}, and our ids are not translated",
        "history is asked for in pages of Binance's length",
        "its account cannot be asked what became of orders after a restart",
    )


def _named(prefix: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_{part}" for part in parts)


_PAIR = ("API_KEY", "API_SECRET")
_TRIPLE = ("API_KEY", "API_SECRET", "API_PASSPHRASE")

BINANCE = Venue(
    name="binance",
    venue="BINANCE",
    title="Binance USDT-M futures",
    key_names={"live": _named("BINANCE", *_PAIR), "testnet": _named("BINANCE_TESTNET", *_PAIR)},
    data=_binance_data,
    execution=_binance_execution,
    tried=(
        "against the test exchange: bars, quotes, mark prices and funding; paged history; orders "
        "with stops; dropped connections; a restart after SIGKILL",
    ),
    untried=("the real exchange and its testnet: no test of this repository reaches a network",),
)
BYBIT = Venue(
    name="bybit",
    venue="BYBIT",
    title="Bybit linear perpetuals",
    key_names={"live": _named("BYBIT", *_PAIR), "testnet": _named("BYBIT_TESTNET", *_PAIR)},
    data=_bybit_data,
    execution=_bybit_execution,
    tried=_BUILT,
    untried=_UNTRIED,
    missing=_missing("BTCUSDT-LINEAR"),
)
OKX = Venue(
    name="okx",
    venue="OKX",
    title="OKX perpetual swaps",
    key_names={"live": _named("OKX", *_TRIPLE), "testnet": _named("OKX_DEMO", *_TRIPLE)},
    data=_okx_data,
    execution=_okx_execution,
    tried=_BUILT,
    untried=(*_UNTRIED, "sizes in contracts instead of base units"),
    missing=_missing("BTC-USDT-SWAP"),
)
HYPERLIQUID = Venue(
    name="hyperliquid",
    venue="HYPERLIQUID",
    title="Hyperliquid perpetuals",
    key_names={
        "live": _named("HYPERLIQUID", "PRIVATE_KEY"),
        "testnet": _named("HYPERLIQUID_TESTNET", "PRIVATE_KEY"),
    },
    data=_hyperliquid_data,
    execution=_hyperliquid_execution,
    tried=_BUILT,
    untried=(*_UNTRIED, "settlement every hour, and in USDC"),
    missing=_missing("BTC-USD-PERP"),
)
KRAKEN = Venue(
    name="kraken",
    venue="KRAKEN",
    title="Kraken futures",
    key_names={"live": _named("KRAKEN", *_PAIR), "testnet": _named("KRAKEN_DEMO", *_PAIR)},
    data=_kraken_data,
    execution=_kraken_execution,
    tried=_BUILT,
    untried=(*_UNTRIED, "settlement every hour, and in USD"),
    missing=_missing("PF_XBTUSD"),
)
VENUES: Mapping[str, Venue] = {one.name: one for one in (BINANCE, BYBIT, OKX, HYPERLIQUID, KRAKEN)}
"""By the name that people write."""


def venue_of(instruments: Sequence[str]) -> Venue:
    """Return the venue of instrument ids, all of one.

    Raises
    ------
    ConfigError
        If they are of several, or of one that is not described here.
    """
    names = sorted({name.rpartition(".")[2] for name in instruments})
    if len(names) != 1:
        raise ConfigError(
            f"instruments of one engine must be of one venue, were of {', '.join(names) or 'none'}"
        )
    found = next((one for one in VENUES.values() if one.venue == names[0]), None)
    if found is None:
        known = ", ".join(sorted(one.venue for one in VENUES.values()))
        raise ConfigError(f"venue of an engine must be one of {known}, was {names[0]}")
    return found
