"""What a test exchange is told before it opens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from catalog.errors import ConfigError
from strategies.execution import ExecutionConfig

type Mode = Literal["timed", "lockstep", "max"]

COSTS: dict[str, Any] = {
    "fee_tier": "binance-usdm-regular",
    "maker_fee_bps": 2.0,
    "taker_fee_bps": 5.0,
    "latency_ms": 250,
    "latency_slippage_bps": 0.4,
    "slippage_bps": 1.0,
    "impact_bps": 35.0,
    "impact_cap_bps": 50.0,
    "max_participation": 0.05,
    "funding": "recorded",
    "starting_balance": 100_000.0,
    "leverage": 3.0,
    "liquidation": True,
    "order_style": "market",
    "limit_offset_bps": 0.0,
    "limit_timeout_bars": 1,
    "post_only": False,
}
"""What trading costs where nothing else is said: the shipped profile's costs."""


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """An account and the key that opens it.

    Parameters
    ----------
    name : str
        In the truth log.
    key, secret : str
        Of the API, HMAC.
    balance : float, optional
        USDT to begin with; None for the execution settings' `starting_balance`.
    """

    name: str = "main"
    key: str = "test-key"
    secret: str = "test-secret"
    balance: float | None = None


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """Everything that makes two exchanges alike.

    Parameters
    ----------
    catalog : Path
        Where the market data are.
    instruments : tuple of str
        Instrument ids of the catalog; each is offered as the perpetual of its symbol.
    start : int
        When the market clock begins, UTC nanoseconds; bars before it are history.
    end : int, optional
        When it stops; None for the end of the data.
    interval : str
        Length of the catalog's bars, such as ``15m``.
    execution : ExecutionConfig
        Fees, latency, slippage, leverage: the fill rule's settings.
    accounts : tuple of AccountKeys
        Who may trade.
    mode : {"timed", "lockstep", "max"}
        ``timed`` runs `speed` times as fast as the clock on the wall, ``lockstep`` a step for
        each ``POST /control/advance``, ``max`` without a pause.
    speed : float
        Seconds of market time in a second.
    hold_ms : float
        How long, in milliseconds on the wall, the next open waits after a close: orders that are
        sent within it fill at that open, as a backtest's do. At most half a bar.
    fill_parts : int
        Into how many trades a fill is divided.
    fee_asset : str
        In what fees are charged: ``USDT``, or ``BNB``, of which every account has enough.
    partials : int
        Unfinished klines sent within a bar.
    state : Path, optional
        Folder of the truth log, from which a restarted exchange goes on; None for none.
    weight_limit, order_limit : int
        Request weight in a minute, orders in ten seconds; as the venue's.
    paused : bool
        Whether the market clock waits for ``POST /control/resume``.
    """

    catalog: Path
    instruments: tuple[str, ...]
    start: int
    end: int | None = None
    interval: str = "15m"
    execution: ExecutionConfig = field(default_factory=lambda: ExecutionConfig(**COSTS))
    accounts: tuple[AccountKeys, ...] = (AccountKeys(),)
    mode: Mode = "timed"
    speed: float = 1.0
    hold_ms: float = 250.0
    fill_parts: int = 1
    fee_asset: str = "USDT"
    partials: int = 0
    state: Path | None = None
    weight_limit: int = 2_400
    order_limit: int = 300
    paused: bool = False

    def __post_init__(self) -> None:
        """Refuse what no exchange could be made of."""
        if not self.instruments:
            raise ConfigError("instruments must name at least one, were none")
        if not self.speed > 0.0:
            raise ConfigError(f"speed must be above 0, was {self.speed:g}")
        if len({one.key for one in self.accounts}) != len(self.accounts) or not self.accounts:
            raise ConfigError("accounts must have keys of their own, and there must be one")
        if self.fill_parts < 1:
            raise ConfigError(f"fill_parts must be at least 1, was {self.fill_parts}")

    def header(self) -> dict[str, Any]:
        """Return what a truth log must have been begun with to be gone on with."""
        return {
            "instruments": list(self.instruments),
            "interval": self.interval,
            "start": self.start,
            "execution": self.execution.model_dump(mode="json"),
            "accounts": [[one.name, one.key, one.balance] for one in self.accounts],
            "fill_parts": self.fill_parts,
            "fee_asset": self.fee_asset,
        }
