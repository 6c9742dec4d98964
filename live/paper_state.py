"""What a paper exchange knows, as plain data that survives its process: JSON both ways."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from catalog.errors import DataError
from live.paper_orders import PaperOrder
from strategies.snapshots import LedgerSnapshot

SCHEMA = 1
"""Grows with every change that an older reader would misread."""


@dataclass(frozen=True, slots=True)
class TravellingCommand:
    """A command under way: when it arrives (UTC nanoseconds), its number, what it does."""

    ts_arrival: int
    number: int
    action: Literal["submit", "cancel"]
    client_order_id: str


@dataclass(frozen=True, slots=True)
class BookSnapshot:
    """A `PaperBook`; dicts are by instrument, orders are named."""

    ledger: LedgerSnapshot
    orders: dict[str, PaperOrder]
    known: tuple[str, ...]
    travelling: dict[str, tuple[TravellingCommand, ...]]
    markets: dict[str, tuple[str, ...]]
    resting: dict[str, tuple[str, ...]]
    taken: dict[str, dict[str, float]]
    volumes: dict[str, float]
    quotes: dict[str, float]
    prices: dict[str, float]
    commands: int
    filled: dict[str, float]


@dataclass(frozen=True, slots=True)
class DueFunding:
    """A settlement that is not paid yet."""

    instrument_id: str
    rate: str
    ts_event: int
    ts_init: int


@dataclass(frozen=True, slots=True)
class PaperSnapshot:
    """A paper account and its exchange.

    Parameters
    ----------
    schema : int
        `SCHEMA`.
    book : BookSnapshot
        Orders, positions, cash.
    due : tuple of DueFunding
        Oldest first.
    quoted : int
        Time of quotes after which solvency has not been looked at, UTC nanoseconds.
    fills : int
        How many trades there were: the next one's name.
    shown : dict of str to int
        Up to where each stream of records was taken, such as ``Bar BTCUSDT-PERP.BINANCE``.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    schema: int
    book: BookSnapshot
    due: tuple[DueFunding, ...]
    quoted: int
    fills: int
    shown: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the snapshot as one line of JSON."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> PaperSnapshot:
        """Return the snapshot that a text holds.

        Raises
        ------
        DataError
            If it is damaged or of another schema.
        """
        try:
            found = _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"a paper account must be readable, was not: {error.errors()[0]['msg']} at "
                f"{error.errors()[0]['loc']}: restore paper.db from a copy, or remove it to begin "
                f"a new account"
            ) from error
        if found.schema != SCHEMA:
            raise DataError(
                f"schema of a paper account must be {SCHEMA}, was {found.schema}: go on with the "
                f"version that wrote it, or remove paper.db to begin a new account"
            )
        return found


_ADAPTER = TypeAdapter(PaperSnapshot)
