"""What trading cost by the way in which orders were sent, measured after a run.

Costs are in basis points of the value that was traded, and positive. The fee is what was paid. The
slippage is the distance of fills from their reference prices: the open for what takes, the limit
for what rested. The implementation shortfall (Perold, "The implementation shortfall", 1988) is the
distance of fills from the close on which the trade was first decided: for a market order that
follows a limit, from the close at which the limit was decided, so what waiting cost is in it. What
never filled has no price and no shortfall; it is told as a share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from catalog.arrays import BarArrays, Float64Array
from strategies.policy import FORCED_REASONS
from strategies.recorder import EXIT_TYPES, LIMIT, MAKER

if TYPE_CHECKING:
    from strategies.outcome import RunFrames

_BPS = 10_000.0
MARKET, AFTER_LIMIT, FORCED, PROTECTION, LIQUIDATION = (
    *("market", "market after a limit", "forced", "stop or target", "liquidation"),
)
STYLES = (MARKET, LIMIT.lower(), AFTER_LIMIT, FORCED, PROTECTION, LIQUIDATION)
"""Ways in which orders are sent, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """The orders of one style.

    Parameters
    ----------
    style : str
        One of `STYLES`, or ``all decisions``: the first three together.
    orders : int
        How many were sent.
    filled_frac : float
        How much of their value was filled; NaN for stops and targets, most of which are there to
        be taken back.
    missed_frac : float
        Share of orders of which nothing was filled; NaN as above.
    traded : float
        Value of the fills, USDT.
    maker_frac : float
        Share of that value which rested in the book.
    fee_bps, slippage_bps, shortfall_bps : float
        Costs, basis points of the value of the fills; NaN without fills. The shortfall is NaN for
        orders that no decision caused.
    """

    style: str
    orders: int
    filled_frac: float
    missed_frac: float
    traded: float
    maker_frac: float
    fee_bps: float
    slippage_bps: float
    shortfall_bps: float

    def to_json(self) -> dict[str, Any]:
        """Return the row for programs; what is unknown as None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }


def execution_quality(frames: RunFrames, bars: Sequence[BarArrays]) -> tuple[ExecutionRow, ...]:
    """Return what each style of orders cost, those that occur, and all that decisions sent.

    Parameters
    ----------
    frames : RunFrames
        Of a whole run.
    bars : sequence of BarArrays
        What was traded, for the closes on which it was decided.
    """
    orders = frames.orders.set_index("client_order_id")
    styles = _styles(orders)
    decided = _decision_prices(orders, bars)
    decided[np.isin(styles, (FORCED, PROTECTION, LIQUIDATION))] = math.nan
    fills = frames.fills
    place = orders.index.get_indexer(pd.Index(fills["client_order_id"]))
    found = []
    for style in STYLES:
        own = styles == style
        if own.any():
            found.append(_row(style, orders[own], decided[own], fills[own[place]]))
    own = np.isin(styles, (MARKET, LIMIT.lower(), AFTER_LIMIT))
    if own.any():
        found.append(_row("all decisions", orders[own], decided[own], fills[own[place]]))
    return tuple(found)


def execution_lines(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of a table, its head first, from rows as `ExecutionRow.to_json` has them."""
    head = ["orders sent as", "orders", "filled", "missed", "made", "fee bp", "slippage bp"]
    return [
        [*head, "shortfall bp"],
        *(
            [
                str(row["style"]),
                f"{row['orders']:,}",
                *(_share(row[name]) for name in ("filled_frac", "missed_frac", "maker_frac")),
                *(_cost(row[name]) for name in ("fee_bps", "slippage_bps", "shortfall_bps")),
            ]
            for row in rows
        ),
    ]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100.0 * value:.0f} %"


def _cost(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _styles(orders: pd.DataFrame) -> np.ndarray[Any, Any]:
    kind = orders["type"].to_numpy(dtype=object)
    later = orders["ts_decided"].to_numpy() < orders["ts_init"].to_numpy()
    found = np.full(len(orders), MARKET, dtype=object)
    found[later] = AFTER_LIMIT
    found[np.isin(orders["reason"].to_numpy(dtype=str), list(FORCED_REASONS))] = FORCED
    found[np.isin(kind.astype(str), EXIT_TYPES)] = PROTECTION
    found[kind == LIMIT] = LIMIT.lower()
    found[kind == "LIQUIDATION"] = LIQUIDATION
    return found


def _decision_prices(orders: pd.DataFrame, bars: Sequence[BarArrays]) -> Float64Array:
    """Return the last close at each order's decision, NaN where there is none."""
    found = np.full(len(orders), math.nan)
    names = orders["instrument_id"].to_numpy(dtype=object)
    times = orders["ts_decided"].to_numpy(dtype=np.int64)
    for one in bars:
        own = np.flatnonzero(names == one.instrument_id)
        row = np.searchsorted(one.ts_init, times[own], side="right") - 1
        close = one.close[np.maximum(row, 0)]
        found[own] = np.where(row >= 0, close, math.nan)
    return found


def _row(
    style: str, orders: pd.DataFrame, decided: Float64Array, fills: pd.DataFrame
) -> ExecutionRow:
    quantity = fills["quantity"].to_numpy(dtype=np.float64)
    price = fills["price"].to_numpy(dtype=np.float64)
    value = quantity * price
    traded = float(value.sum())
    made = value[fills["liquidity"].to_numpy(dtype=object) == MAKER].sum()
    start = decided[orders.index.get_indexer(pd.Index(fills["client_order_id"]))]
    worse = fills["side"].to_numpy(dtype=np.float64) * quantity * (price - start)
    filled = missed = math.nan
    if style not in (PROTECTION, LIQUIDATION):
        asked = orders["quantity"].to_numpy(dtype=np.float64)
        got = orders["filled_quantity"].to_numpy(dtype=np.float64)
        scale = np.where(np.isnan(decided), 1.0, decided)
        filled = float((got * scale).sum() / (asked * scale).sum())
        missed = float((got == 0.0).mean())
    return ExecutionRow(
        style,
        len(orders),
        filled,
        missed,
        traded,
        _ratio(float(made), traded),
        _BPS * _ratio(float(fills["commission"].sum()), traded),
        _BPS * _ratio(float(fills["slippage_cost"].sum()), traded),
        _BPS * _ratio(float(worse.sum()), traded),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0.0 else math.nan
