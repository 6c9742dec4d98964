"""What a strategy knows, as plain data that survives its process: frozen copies, JSON both ways.

A snapshot holds what later decisions depend on and nothing else: terms, settings and policy come
from the profile, past fills and decisions from the journal. Floats return bit for bit, NaN
included. Restoring refuses a snapshot of another schema.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from catalog.errors import DataError
from strategies.execution import Side
from strategies.intent import MarketView
from strategies.order_ids import OrderKind

SCHEMA = 1
"""Of everything in this module. Grows with every change that an older reader would misread."""
_CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True, slots=True)
class OrderSnapshot:
    """An order that has not ended, or ended lately: `OrderRow`, and the trades booked of it."""

    client_order_id: str
    ts_init: int
    instrument_id: str
    side: Side
    quantity: float
    reason: str
    type: str
    trigger_price: float
    limit_price: float
    post_only: bool
    ts_decided: int
    ts_cancel: int
    reduce_only: bool
    status: str
    filled_quantity: float
    bound_by: str
    stop_frac: float
    detail: str
    trades: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstrumentSnapshot:
    """What changes of an `InstrumentState`, and the last bar that was decided on (-1: none)."""

    since: int
    weight: float
    under_way: tuple[str, ...]
    stop_frac: float
    stopped_at: int
    degraded_bars: int
    volume: float
    funding_rate: float
    bar_ts: int
    decided_slot: int
    funded_ts: int


@dataclass(frozen=True, slots=True)
class PositionSnapshot:
    """An open position: `OpenPosition`."""

    ts_opened: int
    quantity: float
    average_open: float
    peak: float
    closed_quantity: float
    closed_value: float
    realized_pnl: float
    commission: float
    funding: float


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """Cash and what of it was paid in (USDT), open positions and latest marks by instrument."""

    cash: float
    positions: dict[str, PositionSnapshot]
    marks: dict[str, float]
    transferred: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class FundingSnapshot:
    """What `PaidFunding` remembers: rows of `Move` and `Paid` by instrument."""

    moves: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    paid: dict[str, tuple[tuple[int, float, float, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExitSnapshot:
    """One way out of a position."""

    kind: OrderKind
    sent: tuple[str, ...]
    trigger: float
    reason: str


@dataclass(frozen=True, slots=True)
class ExitsSnapshot:
    """What protects one position."""

    side: Side
    stop_frac: float
    best: float
    ts_opened: int
    quantity: float
    covered: float
    stop: ExitSnapshot
    target: ExitSnapshot | None


@dataclass(frozen=True, slots=True)
class ProtectionSnapshot:
    """Exits by instrument, and (instrument, kind, time) of the names taken last."""

    exits: dict[str, ExitsSnapshot]
    named: tuple[tuple[str, OrderKind, int], ...]


@dataclass(frozen=True, slots=True)
class WaitingSnapshot:
    """A limit order under way."""

    client_order_id: str
    bars: int
    missed: bool


@dataclass(frozen=True, slots=True)
class MissedSnapshot:
    """What a limit left undone: its order, and how much, base units."""

    client_order_id: str
    left: float


@dataclass(frozen=True, slots=True)
class LimitsSnapshot:
    """Limits under way and missed, by instrument."""

    sent: dict[str, WaitingSnapshot]
    missed: dict[str, MissedSnapshot]


@dataclass(frozen=True, slots=True)
class WindowSnapshot:
    """A `ReturnsWindow`: its rows oldest first as base64 of little-endian doubles."""

    names: tuple[str, ...]
    bars: int
    rows: str
    last: dict[str, float]


@dataclass(frozen=True, slots=True)
class SeenSnapshot:
    """The latest prediction of an instrument as the JSON of its type, and the market then."""

    prediction: dict[str, Any]
    market: MarketView


@dataclass(frozen=True, slots=True)
class PortfolioSnapshot:
    """What a `PortfolioDesk` has seen; windows are None where it keeps none."""

    ts: int
    seen: dict[str, SeenSnapshot]
    decided: tuple[str, ...]
    window: WindowSnapshot | None
    rebalance_window: WindowSnapshot | None
    rebalanced_at: int | None


@dataclass(frozen=True, slots=True)
class GroupsSnapshot:
    """What correlates: the returns, the UTC day on which groups were found, and those."""

    window: WindowSnapshot
    day: int | None
    found: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class GuardSnapshot:
    """What a risk guard remembers, as `GuardState`, but for its history.

    Its own file is what people change, and is written when the guard has something to say, and now
    and then: what it counts may be a little older there. `holds` are (reason, since, detail),
    `desk_ts` is the last close at which the account was marked, `data` when each instrument's
    newest record came.
    """

    ts: int
    day: int | None
    start_day: int | None
    equity: float | None
    day_start_equity: float | None
    peak_equity: float | None
    daily_loss_day: int | None
    consecutive_losses: int
    rejections: tuple[int, ...]
    orders: tuple[int, ...]
    holds: tuple[tuple[str, int, str], ...]
    desk_ts: int
    data: dict[str, int]
    groups: GroupsSnapshot | None


@dataclass(frozen=True, slots=True)
class StrategySnapshot:
    """Everything that a strategy's next decisions depend on.

    Parameters
    ----------
    schema : int
        `SCHEMA`.
    tag : str
        The strategy's, part of its orders' names.
    interval_ns : int
        Length of a bar.
    ts : int
        Newest time of which a bar was seen, UTC nanoseconds: records from then on (this time
        included) are to be shown again, which is harmless.
    instruments : dict of InstrumentSnapshot
        By id, in the profile's order.
    orders : tuple of OrderSnapshot
        Those that have not ended, and those that something still refers to.
    ledger, protection, limits, portfolio
        Of the parts of those names.
    due : tuple of (str, float, int)
        Settlements that are not booked yet: instrument, rate, time.
    guard : GuardSnapshot or None
        None without a risk guard.
    funding : FundingSnapshot
        Settlements and trades of which there may still be news.
    """

    __pydantic_config__ = _CONFIG

    schema: int
    tag: str
    interval_ns: int
    ts: int
    instruments: dict[str, InstrumentSnapshot]
    orders: tuple[OrderSnapshot, ...]
    ledger: LedgerSnapshot
    protection: ProtectionSnapshot
    limits: LimitsSnapshot
    portfolio: PortfolioSnapshot | None = None
    due: tuple[tuple[str, float, int], ...] = ()
    guard: GuardSnapshot | None = None
    funding: FundingSnapshot = FundingSnapshot()

    def to_json(self) -> str:
        """Return the snapshot as one line of JSON."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> StrategySnapshot:
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
                f"a strategy's snapshot must be readable, was not: {error.errors()[0]['msg']} at "
                f"{error.errors()[0]['loc']}: start without it (the exchange's positions win) or "
                f"restore the engine's database from a copy"
            ) from error
        if found.schema != SCHEMA:
            raise DataError(
                f"schema of a strategy's snapshot must be {SCHEMA}, was {found.schema}: go on "
                f"with the version that wrote it, or start without it"
            )
        return found


_ADAPTER = TypeAdapter(StrategySnapshot)


def packed_rows(rows: NDArray[np.float64]) -> str:
    """Return rows of doubles as text, bit for bit."""
    return base64.b64encode(np.ascontiguousarray(rows, dtype="<f8").tobytes()).decode()


def unpacked_rows(text: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the rows that `packed_rows` wrote, (n_bars, n_names)."""
    found = np.frombuffer(base64.b64decode(text), dtype="<f8")
    return found.reshape(-1, len(names)).astype(np.float64)
