"""Order flow: who crossed the spread, in how many trades and of what size.

A bar's flow has the stamp of the bar's close and counts for that bar alone. A bar whose flow is
not there by then makes every window that it lies in NaN; a missing bar is one without trades, as
everywhere (see `research.kernels`). Windows reach back 96 slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from research.feature_table import Feature
from research.groups.registry import Input, flow_input
from research.kernel_tools import MAX_CARRIED, Row, Table, first_slot, slide
from research.kernels import NAN

NAME = "flow"

# Layout of an instrument's floats: the flow that arrived last, the bar's own, sums of windows.
ARRIVED_QUOTE, ARRIVED_TRADES, ARRIVED_TAKER = range(3)
QUOTE, TRADES, TAKER = range(3, 6)
QUOTE_20_NOW, TAKER_20_NOW, QUOTE_96_NOW, TRADES_96_NOW = range(6, 10)
QUOTE_20 = 10
TAKER_20 = QUOTE_20 + 22
QUOTE_96 = TAKER_20 + 22
TRADES_96 = QUOTE_96 + 98
FLOATS = TRADES_96 + 98

# Layout of the ints behind those that every group has.
FLOW_TS = 3
INTS = 4

TAKER_SHARE, TAKER_SHARE_20, TRADE_COUNT, TRADE_SIZE, SIGNED_VOLUME = range(5)
_REACH = 97 + MAX_CARRIED


def features(options: Any) -> tuple[Feature, ...]:
    """Return the rows of the feature table."""
    rows = (
        ("flow_taker_share", "fraction", "quote volume bought by takers, of the last bar's"),
        ("flow_taker_share_20", "fraction", "quote volume bought by takers, of that of 20 bars"),
        ("flow_trade_count", "log ratio", "trades of the last bar by their mean of 96 bars"),
        ("flow_trade_size", "log ratio", "mean trade of the last bar by that of 96 bars"),
        ("flow_signed_volume", "1", "bought less sold by takers, per mean bar of the last 96"),
    )
    return tuple(
        Feature(name, ("flow",), _REACH, "observed", unit, description)
        for name, unit, description in rows
    )


def settings(instruments: Sequence[str], interval_ns: int, options: Any) -> list[int]:
    """Return the settings: the first column, which the driver fills in."""
    return [0]


def inputs(instruments: Sequence[str], options: Any) -> tuple[Input, ...]:
    """Return what the group listens to beside bars: each instrument's order flow."""
    return tuple((flow_input(name), row) for row, name in enumerate(instruments))


def take(ts: int, row: int, values: Row, floats: Table, ints: Table, settings: Row) -> None:
    """Take in the flow of the bar that closes at `ts`, in the order of `research.inputs`."""
    f = floats[row]
    f[ARRIVED_QUOTE], f[ARRIVED_TRADES], f[ARRIVED_TAKER] = values[0], values[1], values[3]
    ints[row][FLOW_TS] = ts


def push(f: Row, slot: int, quote: float, trades: float, taker: float) -> None:
    """Move the windows on by one slot's flow."""
    position_20, position_96 = slot % 20, slot % 96
    f[QUOTE], f[TRADES], f[TAKER] = quote, trades, taker
    f[QUOTE_20_NOW] = slide(f, QUOTE_20, 20, position_20, quote)
    f[TAKER_20_NOW] = slide(f, TAKER_20, 20, position_20, taker)
    f[QUOTE_96_NOW] = slide(f, QUOTE_96, 96, position_96, quote)
    f[TRADES_96_NOW] = slide(f, TRADES_96, 96, position_96, trades)


def write(f: Row, row: Row, at: int) -> None:
    """Write the columns; where a window holds a NaN every comparison fails."""
    quote, trades = f[QUOTE], f[TRADES]
    quote_96, trades_96 = f[QUOTE_96_NOW], f[TRADES_96_NOW]
    row[at + TAKER_SHARE] = f[TAKER] / quote if quote > 0.0 else NAN
    share = f[TAKER_20_NOW] / f[QUOTE_20_NOW] if f[QUOTE_20_NOW] > 0.0 else NAN
    row[at + TAKER_SHARE_20] = share
    row[at + TRADE_COUNT] = row[at + TRADE_SIZE] = row[at + SIGNED_VOLUME] = NAN
    if quote_96 > 0.0:
        row[at + SIGNED_VOLUME] = 96.0 * (2.0 * f[TAKER] - quote) / quote_96
    if trades > 0.0 and trades_96 > 0.0:
        row[at + TRADE_COUNT] = math.log(96.0 * trades / trades_96)
        if quote > 0.0:
            row[at + TRADE_SIZE] = math.log(quote / trades / (quote_96 / trades_96))


def step(
    slot: int,
    interval_ns: int,
    present: Row,
    bars: Table,
    floats: Table,
    ints: Table,
    settings: Row,
    rows: Table,
    at: Row,
    valid: Row,
) -> None:
    """Take one slot in; see `research.groups.registry.Group`."""
    for index in range(len(present)):
        f, k = floats[index], ints[index]
        first = first_slot(k, slot, present[index])
        for a in range(first, slot + 1):
            quote = trades = taker = 0.0
            if a == slot and present[index]:
                quote = trades = taker = NAN  # not known, unless it is that of this very bar
                if k[FLOW_TS] == slot * interval_ns:
                    quote, trades = f[ARRIVED_QUOTE], f[ARRIVED_TRADES]
                    taker = f[ARRIVED_TAKER]
            push(f, a, quote, trades, taker)
        if present[index] and valid[at[index]]:
            write(f, rows[at[index]], settings[0])


HELPERS = (slide, first_slot, take, push, write, step)
SOURCES: tuple[ModuleType, ...] = ()
