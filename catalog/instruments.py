"""Definitions of what is traded: ids, precisions, bar types.

The table below holds what the shared market data needs, with the precisions that its prices and
volumes actually have (Binance changes tick sizes over the years: SOL futures had a tick of 0.001
in 2023 and have 0.01 now, so that 0.001 represents both without loss). Anything else is inferred
from the data when it is imported, and stored in the catalog.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from catalog.errors import ConfigError
from catalog.timestamps import INTERVALS, interval_ns

if TYPE_CHECKING:
    from nautilus_trader.model import CryptoPerpetual, CurrencyPair

_PERPETUAL = re.compile(r"^([A-Z0-9]+)-PERP\.([A-Z0-9_]+)$")
_SPOT = re.compile(r"^([A-Z0-9]+)\.([A-Z0-9_]+)$")
_BAR_TYPE = re.compile(
    r"^(?P<instrument>.+)-(?P<step>\d+)-(?P<unit>MINUTE|HOUR|DAY)-LAST-EXTERNAL$"
)
_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USD", "EUR", "BTC", "ETH", "BNB")
_UNIT_NAMES = {"m": "MINUTE", "h": "HOUR", "d": "DAY"}
_UNIT_LETTERS = {name: letter for letter, name in _UNIT_NAMES.items()}
_DEFAULT_MIN_NOTIONAL = "5"


@dataclass(frozen=True, slots=True)
class InstrumentSpec:
    """What the catalog knows of an instrument; `definition` makes the engine's object of it.

    Parameters
    ----------
    instrument_id : str
        ``BTCUSDT-PERP.BINANCE`` for a perpetual, ``BTCUSDT.BINANCE`` for a spot pair.
    base, quote : str
        Currency codes. A perpetual settles in `quote`.
    price_precision, size_precision : int
        Decimals of prices (quote units) and quantities (base units). One unit of the last decimal
        is the tick and the step.
    min_notional : str
        Smallest value of an order, quote units.
    """

    instrument_id: str
    base: str
    quote: str
    price_precision: int
    size_precision: int
    min_notional: str = _DEFAULT_MIN_NOTIONAL

    @property
    def is_perpetual(self) -> bool:
        """Whether it is a perpetual future (else a spot pair)."""
        return is_perpetual(self.instrument_id)

    def widened(self, price_precision: int, size_precision: int) -> Self:
        """Return the spec with at least these precisions."""
        return replace(
            self,
            price_precision=max(self.price_precision, price_precision),
            size_precision=max(self.size_precision, size_precision),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


# symbol: (price decimals, size decimals, smallest order in USDT), checked against the shared data
# by tests/catalog/test_instruments.py; smallest orders as Binance published them in May 2025.
_PERPETUALS: Mapping[str, tuple[int, int, str]] = {
    "BTC": (1, 3, "100"),
    "ETH": (2, 3, "20"),
    "SOL": (3, 2, "5"),
}
_SPOT_PAIRS: Mapping[str, tuple[int, int]] = {
    "ADA": (4, 1),
    "ARB": (4, 1),
    "ATOM": (3, 2),
    "AVAX": (2, 3),
    "BNB": (2, 4),
    "BTC": (2, 6),
    "DOGE": (5, 0),
    "DOT": (3, 3),
    "ETH": (2, 4),
    "INJ": (3, 3),
    "LINK": (3, 2),
    "LTC": (2, 3),
    "NEAR": (3, 2),
    "OP": (3, 2),
    "SOL": (2, 3),
    "XRP": (4, 0),
}


def _known() -> dict[str, InstrumentSpec]:
    specs = {}
    for base, (price, size, notional) in _PERPETUALS.items():
        instrument_id = f"{base}USDT-PERP.BINANCE"
        specs[instrument_id] = InstrumentSpec(instrument_id, base, "USDT", price, size, notional)
    for base, (price, size) in _SPOT_PAIRS.items():
        instrument_id = f"{base}USDT.BINANCE"
        specs[instrument_id] = InstrumentSpec(instrument_id, base, "USDT", price, size)
    return specs


KNOWN: Mapping[str, InstrumentSpec] = _known()
"""The instruments that need no inference, by id."""


def known_spec(instrument_id: str) -> InstrumentSpec:
    """Return the built-in spec of an instrument.

    Raises
    ------
    ConfigError
        If there is none.
    """
    spec = KNOWN.get(instrument_id)
    if spec is None:
        raise ConfigError(
            f"instrument must be one of the built-in definitions, was {instrument_id!r}; "
            f"known are {', '.join(sorted(KNOWN))}. Others are defined by the catalog that holds "
            f"their data: import it and ask the catalog"
        )
    return spec


def infer_instrument(
    instrument_id: str, price_precision: int, size_precision: int
) -> InstrumentSpec:
    """Return a spec for an instrument outside the table, from its id and its data's decimals.

    Raises
    ------
    ConfigError
        If the id does not have the form ``BASEQUOTE-PERP.VENUE`` or ``BASEQUOTE.VENUE`` with a
        known quote currency.
    """
    match = _PERPETUAL.match(instrument_id) or _SPOT.match(instrument_id)
    symbol = match.group(1) if match else ""
    for quote in _QUOTES:
        base = symbol.removesuffix(quote)
        if symbol.endswith(quote) and base:
            return InstrumentSpec(instrument_id, base, quote, price_precision, size_precision)
    raise ConfigError(
        f"instrument id must look like BTCUSDT-PERP.BINANCE (perpetual) or BTCUSDT.BINANCE (spot) "
        f"with a quote currency out of {', '.join(_QUOTES)}, was {instrument_id!r}"
    )


def is_perpetual(instrument_id: str) -> bool:
    """Return whether an id has the form of a perpetual's, ``BTCUSDT-PERP.BINANCE``."""
    return _PERPETUAL.match(instrument_id) is not None


def symbol_of(instrument_id: str) -> str:
    """Return the exchange's symbol in an id: ``BTCUSDT`` of ``BTCUSDT-PERP.BINANCE``."""
    return instrument_id.split(".")[0].removesuffix("-PERP")


def definition(spec: InstrumentSpec) -> CryptoPerpetual | CurrencyPair:
    """Return the engine's definition of an instrument.

    Initial margin is the whole notional, so that an account's leverage alone decides what a
    position binds (notional / leverage); the maintenance margin is Binance's first tier for BTC,
    0.4 %. Fees are the venue's affair (NAUTILUS.md 6).
    """
    from nautilus_trader.model import (
        CryptoPerpetual,
        Currency,
        CurrencyPair,
        InstrumentId,
        Money,
        Price,
        Quantity,
        Symbol,
    )

    base, quote = Currency.from_str(spec.base), Currency.from_str(spec.quote)
    identity = InstrumentId.from_str(spec.instrument_id)
    symbol = Symbol(f"{spec.base}{spec.quote}")
    tick = Price.from_str(_last_decimal(spec.price_precision))
    step = Quantity.from_str(_last_decimal(spec.size_precision))
    notional = Money.from_str(f"{spec.min_notional} {spec.quote}")
    precisions = (spec.price_precision, spec.size_precision, tick, step)
    if spec.is_perpetual:
        return CryptoPerpetual(
            identity,
            symbol,
            base,
            quote,
            quote,
            False,
            *precisions,
            ts_event=0,
            ts_init=0,
            min_quantity=step,
            min_notional=notional,
            margin_init=Decimal(1),
            margin_maint=Decimal("0.004"),
        )
    return CurrencyPair(
        identity,
        symbol,
        base,
        quote,
        *precisions,
        ts_event=0,
        ts_init=0,
        min_quantity=step,
        min_notional=notional,
    )


def instrument(instrument_id: str) -> CryptoPerpetual | CurrencyPair:
    """Return the engine's definition of a built-in instrument; see `known_spec` for the errors."""
    return definition(known_spec(instrument_id))


def bar_type(instrument_id: str, interval: str) -> str:
    """Return the engine's name for bars, such as ``BTCUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL``.

    Raises
    ------
    ConfigError
        If the interval is unknown.
    """
    interval_ns(interval)
    return f"{instrument_id}-{interval[:-1]}-{_UNIT_NAMES[interval[-1]]}-LAST-EXTERNAL"


def parse_bar_type(text: str) -> tuple[str, str]:
    """Return instrument id and interval of a bar type's name; the reverse of `bar_type`.

    Raises
    ------
    ConfigError
        If the name is not that of external last-price bars of a known interval.
    """
    match = _BAR_TYPE.match(text)
    interval = match.group("step") + _UNIT_LETTERS[match.group("unit")] if match else ""
    if match is None or interval not in INTERVALS:
        raise ConfigError(
            f"bar type must look like BTCUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL with an "
            f"interval out of {', '.join(INTERVALS)}, was {text!r}"
        )
    return match.group("instrument"), interval


def _last_decimal(precision: int) -> str:
    return "1" if precision == 0 else f"0.{'0' * (precision - 1)}1"
