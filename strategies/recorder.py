"""What a run did, as plain frames: cheap to write during the run, deterministic to read after it.

The strategy appends; the side that fills orders (the replay's fill model, the live paper client)
notes the reference price of each fill with `RunRecorder.reference`. No engine object and no random
identifier is kept, so two runs over the same data give equal frames.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from strategies.execution import MONEY_DECIMALS, Side, slippage_cost
from strategies.guard_state import GuardEvent
from strategies.ledger import FundingRow, Ledger, LedgerFill
from strategies.policy import REASONS
from strategies.prediction_log import PredictionLog

if TYPE_CHECKING:
    import pandas as pd

DECISION_COLUMNS = (
    "ts_init",
    "instrument_id",
    "prob_up",
    "side",
    "target_weight",
    "reason",
    "quantity",
    "client_order_id",
)
ORDER_COLUMNS = (
    "client_order_id",
    "ts_init",
    "instrument_id",
    "side",
    "type",
    "quantity",
    "trigger_price",
    "limit_price",
    "ts_decided",
    "status",
    "filled_quantity",
    "reduce_only",
    "reason",
    "bound_by",
    "stop_frac",
    "detail",
)
FILL_COLUMNS = (
    "ts_event",
    "client_order_id",
    "instrument_id",
    "side",
    "quantity",
    "price",
    "reference_price",
    "commission",
    "slippage_cost",
    "reason",
    "liquidity",
)
GUARD_COLUMNS = ("ts", "kind", "level", "reason", "detail")
EQUITY_COLUMNS = ("ts_init", "equity", "cash", "gross_exposure", "net_exposure")
FINAL_STATUSES = ("FILLED", "CANCELED", "REJECTED", "DENIED", "EXPIRED")
"""An order with another status at the end of a run is not closed."""
LIMIT = "LIMIT"
"""The type of an order that waits at its price."""
EXIT_TYPES = ("STOP_MARKET", "MARKET_IF_TOUCHED")
"""Types of the orders that rest to protect a position: stop and target."""
LIQUIDATION_PREFIX = "LIQUIDATION-"
"""With what the engine's names of liquidation orders begin; the rest is random."""
TAKEN_BACK = "taken back before it filled"
"""The detail of an order that was cancelled while it waited for the next open."""
TAKER, MAKER = "taker", "maker"
"""Whether a fill met an order that rested, or rested itself."""
_TYPES = {
    **dict.fromkeys(("kind", "level"), "object"),
    **dict.fromkeys(("ts", "ts_init", "ts_event", "ts_opened", "ts_closed", "side"), "int64"),
    **{"ts_decided": "int64", "liquidity": "object"},
    **dict.fromkeys(
        ("instrument_id", "client_order_id", "type", "status", "reason", "bound_by", "detail"),
        "object",
    ),
    "reduce_only": "bool",
}
"""Types of columns by name; all others are float64."""
_CHUNK = 16_384
_REASON_CODES = {reason: code for code, reason in enumerate(REASONS)}


class Decision(NamedTuple):
    """One decision: one instrument at one bar close, also when nothing is done.

    `side` is wanted (-1, 0, 1), `target_weight` the signed fraction of equity wanted, `quantity`
    the signed change ordered (0 when none), `client_order_id` that of the order that opens or, if
    none does, closes ("" when none).
    """

    ts_init: int
    instrument_id: str
    prob_up: float
    side: int
    target_weight: float
    reason: str
    quantity: float
    client_order_id: str


@dataclass(slots=True)
class OrderRow:
    """One order; `status` and `filled_quantity` follow its events, `detail` is a refusal's text.

    Of an entry `bound_by` says what decided its size, and `stop_frac` how far from its price the
    stop is to stand, as a fraction (NaN for none). `limit_price` is 0 for none. `ts_decided` is
    when what it is for was first decided, before its `ts_init` where a limit was tried before;
    `ts_cancel` when it was asked to be taken back, 0 for never.
    """

    client_order_id: str
    ts_init: int
    instrument_id: str
    side: Side
    quantity: float
    reason: str
    type: str = "MARKET"
    trigger_price: float = 0.0
    limit_price: float = 0.0
    post_only: bool = False
    ts_decided: int = 0
    ts_cancel: int = 0
    reduce_only: bool = False
    status: str = "INITIALIZED"
    filled_quantity: float = 0.0
    bound_by: str = ""
    stop_frac: float = math.nan
    detail: str = ""

    def __post_init__(self) -> None:
        self.ts_decided = self.ts_decided or self.ts_init


class FillRow(NamedTuple):
    """One fill; the reference price joins it when it is booked."""

    ts_event: int
    client_order_id: str
    instrument_id: str
    side: Side
    quantity: float
    price: float
    commission: float
    reason: str
    liquidity: str = TAKER
    reference_price: float = math.nan


class RunRecorder:
    """Collect what one strategy does in one run, and its ledger.

    Parameters
    ----------
    instruments : tuple of str
        The instruments, in the profile's order.
    starting_balance : float
        USDT.
    """

    def __init__(self, instruments: tuple[str, ...], starting_balance: float) -> None:
        self.instruments = instruments
        self.starting_balance = round(starting_balance, MONEY_DECIMALS)
        self.ledger = Ledger(starting_balance)
        self.orders: dict[str, OrderRow] = {}
        self.fills: list[FillRow] = []
        self.references: dict[str, float] = {}
        self.adopted: dict[str, str] = {}
        self.guard_events: list[GuardEvent] = []
        self.errors: list[str] = []
        self.actor_bars = 0
        self.strategy_bars = 0
        self.late_bars = 0
        self.predictions = PredictionLog(instruments)
        self.received = 0
        self._codes = {instrument: code for code, instrument in enumerate(instruments)}
        # The latest decisions as tuples, which are quick to append; earlier ones as number
        # columns, which take a fifth of the memory.
        self._recent: list[tuple[int, int, float, int, float, int]] = []
        self._columns: list[tuple[np.ndarray, ...]] = []
        self._packed = 0
        self._order_ids: dict[int, tuple[float, str]] = {}

    def decision(self, row: Decision) -> None:
        """Append a decision."""
        if row.client_order_id:
            self._order_ids[self.decision_count] = (row.quantity, row.client_order_id)
        self._append(
            (
                row.ts_init,
                self._codes[row.instrument_id],
                row.prob_up,
                row.side,
                row.target_weight,
                _REASON_CODES[row.reason],
            )
        )

    def unchanged(self, prediction: Any, side: int, weight: float, reason: str) -> None:
        """Append a decision that orders nothing: most do, and this spares them the row."""
        recent = self._recent
        recent.append(
            (
                prediction.ts_init,
                self._codes[prediction.instrument_id],
                prediction.prob_up,
                side,
                weight,
                _REASON_CODES[reason],
            )
        )
        if len(recent) >= _CHUNK:
            self._pack()

    def _append(self, row: tuple[int, int, float, int, float, int]) -> None:
        self._recent.append(row)
        if len(self._recent) >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        if self._recent:
            columns = zip(*self._recent, strict=True)
            types = (np.int64, np.int8, np.float64, np.int8, np.float64, np.int8)
            packed = (np.array(c, dtype=t) for c, t in zip(columns, types, strict=True))
            self._columns.append(tuple(packed))
            self._packed += len(self._recent)
            self._recent = []

    def decisions_from(self, count: int) -> list[Decision]:
        """Return the decisions after the first `count`, of which at most the latest are asked."""
        packed = self._packed
        rows = self._recent[max(0, count - packed) :]
        if count < packed:
            # A chunk has just been packed away.
            columns = [one[count - packed :].tolist() for one in self._columns[-1]]
            rows = [*zip(*columns, strict=True), *rows]
        found = []
        for number, (ts, code, prob_up, side, weight, reason) in enumerate(rows, start=count):
            quantity, order_id = self._order_ids.get(number, (0.0, ""))
            name, why = self.instruments[code], REASONS[reason]
            found.append(Decision(ts, name, prob_up, side, weight, why, quantity, order_id))
        return found

    def order(self, row: OrderRow) -> None:
        """Append an order that is about to be submitted."""
        self.orders[row.client_order_id] = row

    def adopt(self, engine_id: str, row: OrderRow) -> None:
        """Append an order that the exchange sent in our name; its own name is not repeatable."""
        self.order(row)
        self.adopted[engine_id] = row.client_order_id
        if engine_id in self.references:
            self.references[row.client_order_id] = self.references.pop(engine_id)

    def order_status(self, client_order_id: str, status: str, detail: str = "") -> None:
        """Note an order's new status; unknown orders are not ours and ignored."""
        row = self.orders.get(client_order_id)
        if row is not None:
            row.status = status
            row.detail = detail or row.detail

    def reference(self, client_order_id: str, price: float) -> None:
        """Note the price before slippage of an order's next fill, quote units."""
        self.references[client_order_id] = price

    def fill(self, row: FillRow) -> None:
        """Append a fill, book it in the ledger and update its order."""
        reference = self.references.get(row.client_order_id, math.nan)
        self.fills.append(row._replace(reference_price=reference))
        order = self.orders[row.client_order_id]
        order.filled_quantity = round(order.filled_quantity + row.quantity, 9)
        self.ledger.apply_fill(
            LedgerFill(
                row.ts_event,
                row.instrument_id,
                row.side,
                row.quantity,
                row.price,
                row.commission,
                row.reason,
            )
        )
        # The exchange makes a stop smaller when a part of its position is closed by another order.
        flat = order.reduce_only and self.ledger.quantity(row.instrument_id) == 0.0
        complete = flat or order.filled_quantity >= order.quantity
        order.status = "FILLED" if complete else "PARTIALLY_FILLED"

    def trim(self, before: int, wanted: Collection[str]) -> list[str]:
        """Forget what ended before a time, but for the orders that are wanted; return orders."""
        gone = [
            name
            for name, row in self.orders.items()
            if row.status in FINAL_STATUSES and row.ts_init < before and name not in wanted
        ]
        for name in gone:
            del self.orders[name]
            self.references.pop(name, None)
        self.fills = [one for one in self.fills if one.ts_event >= before]
        self.ledger.trim(before)
        return gone

    def error(self, text: str) -> None:
        """Note the text of an exception in a callback, which the engine would swallow."""
        self.errors.append(text)

    @property
    def published(self) -> int:
        """Number of predictions that the actor published."""
        return len(self.predictions)

    @property
    def decision_count(self) -> int:
        """Number of decisions so far."""
        return self._packed + len(self._recent)

    def decisions_frame(self) -> pd.DataFrame:
        """Return the decisions, in the order in which they were made."""
        # A live engine, which makes no frames, need not wait for it at its start.
        import pandas as pd

        self._pack()
        size = self._packed
        quantity = np.zeros(size)
        order_ids = np.full(size, "", dtype=object)
        for row, (change, order_id) in self._order_ids.items():
            quantity[row] = change
            order_ids[row] = order_id
        names = np.array(self.instruments, dtype=object)
        reasons = np.array(REASONS, dtype=object)
        ts_init, codes, prob_up, side, weight, reason = (
            np.concatenate([chunk[column] for chunk in self._columns] or [np.zeros(0)])
            for column in range(6)
        )
        return pd.DataFrame(
            {
                "ts_init": ts_init.astype(np.int64),
                "instrument_id": names[codes.astype(np.int64)],
                "prob_up": prob_up,
                "side": side.astype(np.int64),
                "target_weight": weight,
                "reason": reasons[reason.astype(np.int64)],
                "quantity": quantity,
                "client_order_id": order_ids,
            },
            columns=list(DECISION_COLUMNS),
        )

    def orders_frame(self) -> pd.DataFrame:
        """Return the orders, in the order in which they were submitted."""
        rows = [
            tuple(getattr(row, column) for column in ORDER_COLUMNS) for row in self.orders.values()
        ]
        return frame_of(rows, ORDER_COLUMNS)

    def fills_frame(self) -> pd.DataFrame:
        """Return the fills with reference price and slippage cost, in the order of booking."""
        rows = []
        for fill in self.fills:
            reference = fill.reference_price
            cost = slippage_cost(fill.side, fill.quantity, fill.price, reference)
            rows.append((*fill[:6], reference, fill.commission, cost, fill.reason, fill.liquidity))
        return frame_of(rows, FILL_COLUMNS)

    def guard_frame(self) -> pd.DataFrame:
        """Return what the risk guard had to say."""
        rows = [(one.ts, one.kind, one.level, one.reason, one.detail) for one in self.guard_events]
        return frame_of(rows, GUARD_COLUMNS)

    def funding_frame(self) -> pd.DataFrame:
        """Return the settlements that were booked."""
        return frame_of(self.ledger.settlements, FundingRow._fields)


def frame_of(rows: Sequence[tuple[object, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    """Return rows as a frame whose columns have the same types whether or not there are rows."""
    import pandas as pd

    frame = pd.DataFrame.from_records(list(rows), columns=list(columns))
    return frame.astype({name: _TYPES.get(name, "float64") for name in columns})
