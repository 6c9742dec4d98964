"""What a run leaves behind: frames of positions and equity, for replay and live alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from catalog.arrays import BarArrays, Float64Array, Int64Array
from strategies.execution import (
    BUY,
    MONEY_DECIMALS,
    SELL,
    ExecutionConfig,
    InstrumentTerms,
    commission,
    slippage_cost,
    slipped_price,
)
from strategies.impact import fill_slippage_bps
from strategies.ledger import LedgerPoint, OpenPosition, PositionRow
from strategies.policy import OPEN_AT_END
from strategies.reconciliation import Reconciliation
from strategies.recorder import EQUITY_COLUMNS, FINAL_STATUSES, RunRecorder, frame_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RunFrames:
    """The frames of one run, free of anything random: two runs over the same data are equal.

    Times are UTC nanoseconds, money is USDT.

    Parameters
    ----------
    decisions : DataFrame
        ts_init, instrument_id, prob_up, side (-1, 0, 1 wanted), target_weight (signed fraction
        of equity), reason, quantity (signed change, 0 when none), client_order_id.
    orders : DataFrame
        client_order_id, ts_init, instrument_id, side, type, quantity, trigger_price and
        limit_price (0 when none), ts_decided (when what it is for was first decided), status,
        filled_quantity, reduce_only, reason, detail (of a refusal).
    fills : DataFrame
        ts_event, client_order_id, instrument_id, side, quantity, price, reference_price (before
        slippage), commission, slippage_cost (both positive costs), reason, liquidity (maker or
        taker).
    positions : DataFrame
        instrument_id, ts_opened, ts_closed, side, quantity (largest), average_open,
        average_close, realized_pnl (before costs), commission, funding (received positive),
        reason, closing_cost. A position that the end of the data finds open is closed on paper at
        the last close: its reason is ``open_at_end``, its `realized_pnl` is unrealised, and
        `closing_cost` is the fee and slippage that closing it would still cost (0 otherwise).
    funding : DataFrame
        ts_event, instrument_id, rate, mark_price, quantity, payment (received positive).
    equity : DataFrame
        ts_init, equity, cash, gross_exposure, net_exposure at each bar close.
    predictions : DataFrame
        What was published, in that order: ts_init, instrument_id, prob_up, mu and sigma (log
        return over the horizon), epistemic (of `prob_up`), volatility (of a bar), prob_low and
        prob_high, entry_threshold, side (-1, 0, 1), regime, degraded,
        degraded_reason; then, where there are any, ``expert_<name>`` and ``weight_<name>`` of each
        expert and ``age_<name>`` (bars) of each slow input. NaN where unknown.
    guard : DataFrame
        What the risk guard had to say: ts, kind (hold, release, flat, clock, policy), level
        (normal, reducing, halted), reason, detail.
    """

    decisions: pd.DataFrame
    orders: pd.DataFrame
    fills: pd.DataFrame
    positions: pd.DataFrame
    funding: pd.DataFrame
    equity: pd.DataFrame
    predictions: pd.DataFrame
    guard: pd.DataFrame


@dataclass(frozen=True, slots=True)
class BacktestOutcome(RunFrames):
    """A replay's frames, its reconciliation, and the seconds of each stage."""

    reconciliation: Reconciliation
    seconds: Mapping[str, float]

    @classmethod
    def of(
        cls, frames: RunFrames, reconciliation: Reconciliation, seconds: Mapping[str, float]
    ) -> Self:
        """Join the frames of a run with what vouches for them."""
        own = {field.name: getattr(frames, field.name) for field in fields(RunFrames)}
        return cls(**own, reconciliation=reconciliation, seconds=seconds)


def run_frames(
    recorder: RunRecorder,
    bars: Sequence[BarArrays],
    terms: Mapping[str, InstrumentTerms],
    execution: ExecutionConfig,
) -> RunFrames:
    """Build the frames of a finished run."""
    return RunFrames(
        decisions=recorder.decisions_frame(),
        orders=recorder.orders_frame(),
        fills=recorder.fills_frame(),
        positions=positions_frame(recorder, bars, terms, execution),
        funding=recorder.funding_frame(),
        equity=equity_frame(recorder, bars),
        predictions=recorder.predictions.frame(),
        guard=recorder.guard_frame(),
    )


def close_books(recorder: RunRecorder) -> None:
    """Give orders that the end of the data found alive the status ``OPEN_AT_END``.

    They are the stops of open positions, and what the last bar's decisions sent: nothing came
    after it to fill them.
    """
    for row in recorder.orders.values():
        if row.status not in FINAL_STATUSES:
            row.status = OPEN_AT_END.upper()


def positions_frame(
    recorder: RunRecorder,
    bars: Sequence[BarArrays],
    terms: Mapping[str, InstrumentTerms],
    execution: ExecutionConfig,
) -> pd.DataFrame:
    """Return the positions in the order of their end, those open at the end last."""
    ledger = recorder.ledger
    rows = list(ledger.closed)
    for one in bars:
        position = ledger.positions.get(one.instrument_id)
        if position is not None:
            rows.append(_open_row(position, one, terms[one.instrument_id], execution))
    return frame_of(rows, PositionRow._fields)


def _open_row(
    position: OpenPosition, bars: BarArrays, terms: InstrumentTerms, execution: ExecutionConfig
) -> PositionRow:
    last = float(bars.close[-1])
    side = 1 if position.quantity > 0.0 else -1
    left = abs(position.quantity)
    closing = SELL if side > 0 else BUY
    slippage = fill_slippage_bps(execution, left, float(bars.volume[-1]))
    price = slipped_price(closing, last, slippage, terms.tick)
    cost = commission(left, price, execution.taker_fee_bps)
    cost += slippage_cost(closing, left, price, last)
    average = last
    if position.closed_quantity > 0.0:
        whole = position.closed_quantity + left
        average = (position.closed_value + left * last) / whole
    unrealized = round(side * left * (last - position.average_open), MONEY_DECIMALS)
    return PositionRow(
        instrument_id=bars.instrument_id,
        ts_opened=position.ts_opened,
        ts_closed=int(bars.ts_init[-1]),
        side=side,
        quantity=position.peak,
        average_open=position.average_open,
        average_close=average,
        realized_pnl=round(position.realized_pnl + unrealized, MONEY_DECIMALS),
        commission=position.commission,
        funding=position.funding,
        reason=OPEN_AT_END,
        closing_cost=round(cost, MONEY_DECIMALS),
    )


def equity_frame(recorder: RunRecorder, bars: Sequence[BarArrays]) -> pd.DataFrame:
    """Return the account at each bar close, positions marked at the closes.

    Computed from the ledger's history in one pass, not sampled during the run; fills stamped with
    a bar's close (stops) count at that close.
    """
    import pandas as pd

    grid = np.unique(np.concatenate([one.ts_init for one in bars]))
    history = recorder.ledger.history
    cash = _as_of(history, grid, recorder.starting_balance, "cash")
    equity, gross, net = cash.copy(), np.zeros(len(grid)), np.zeros(len(grid))
    for one in bars:
        own = [point for point in history if point.instrument_id == one.instrument_id]
        quantity = _as_of(own, grid, 0.0, "quantity")
        average = _as_of(own, grid, 0.0, "average_open")
        row = np.searchsorted(one.ts_init, grid, side="right") - 1
        close = np.where(row >= 0, one.close[np.maximum(row, 0)], 0.0)
        equity += quantity * (close - average)
        gross += np.abs(quantity) * close
        net += quantity * close
    columns = (grid, equity, cash, gross, net)
    return pd.DataFrame(dict(zip(EQUITY_COLUMNS, columns, strict=True)))


def _as_of(
    history: Sequence[LedgerPoint], grid: Int64Array, before: float, field: str
) -> Float64Array:
    """Return a field of the ledger's history as it stood at each time of the grid."""
    times = np.array([point.ts_event for point in history], dtype=np.int64)
    values = np.array([before, *(getattr(point, field) for point in history)])
    return np.asarray(values[np.searchsorted(times, grid, side="right")], dtype=np.float64)
