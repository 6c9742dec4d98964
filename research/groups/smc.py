"""Smart money concepts as a causal kernel: 16 features of market structure and of resting orders.

`research.groups.smc_structure` holds the definitions and keeps the state; this module writes it
into rows. Distances are logarithms from the close, in vol (the root mean square of the last 96
one-bar log returns), so that what lies above is positive and what lies below negative; directions
are -1, 0 or 1; ages are log(1 + bars). A row is usable at the close of its bar: whatever needs
later bars to be confirmed enters it when those have closed.
"""

from __future__ import annotations

import math

from research.feature_table import Feature
from research.groups import smc_structure
from research.groups.smc_structure import (
    ABOVE,
    BELOW,
    BLOCK_INTS,
    BLOCKS,
    BREAK_DIRECTION,
    BREAK_IS_CHANGE,
    BREAK_SLOT,
    CLOSE,
    DISPLACEMENT,
    DISPLACEMENT_REACH,
    DISPLACEMENT_SLOT,
    EXTREMES,
    FAR_EDGES,
    FLOATS_OF,
    GAP_INTS,
    GAPS,
    INTS_OF,
    LAST_BAR,
    LIFE,
    MEMORY,
    MITIGATED,
    POOL_INTS,
    POOLS,
    PRIOR_SLOT,
    PRIOR_SWING,
    REACH,
    SWEEP_DIRECTION,
    SWEEP_SLOT,
    SWING,
    SWING_SLOT,
    TREND_REACH,
    VOLATILITY,
    push,
)
from research.kernel_tools import NEVER, Row, Table, carried, first_slot
from research.kernels import NAN

NAME = "smc"
FLOATS, INTS = smc_structure.FLOATS, smc_structure.INTS

_WARMUP = MEMORY + 64  # carried closes may hide that many slots of a start


def _feature(name: str, inputs: str, unit: str, description: str) -> Feature:
    return Feature(f"smc_{name}", tuple(inputs.split()), _WARMUP, "observed", unit, description)


_HLC, _OHLC = "high low close", "open high low close"
FEATURES: tuple[Feature, ...] = (
    _feature("swing_high_distance", _HLC, "vol", "newest confirmed swing high from the close"),
    _feature("swing_low_distance", _HLC, "vol", "newest confirmed swing low from the close"),
    _feature("break_of_structure", _HLC, "sign", "direction of the last break, 0 if a change"),
    _feature(
        "change_of_character", _HLC, "sign", "direction of the last break if a change, else 0"
    ),
    _feature("break_age", _HLC, "log(1 + bars)", "age of the last break of either kind"),
    _feature("block_above_distance", _HLC, "vol", "lower edge of the nearest bearish order block"),
    _feature("block_below_distance", _HLC, "vol", "upper edge of the nearest bullish order block"),
    _feature("gap_above_distance", _OHLC, "vol", "nearest bearish gap that is not mitigated"),
    _feature("gap_below_distance", _OHLC, "vol", "nearest bullish gap that is not mitigated"),
    _feature("gap_mitigated", _OHLC, "sign", "direction of the gaps that this bar mitigated"),
    _feature("liquidity_above_distance", _HLC, "vol", "nearest pool of equal highs not yet swept"),
    _feature("liquidity_below_distance", _HLC, "vol", "nearest pool of equal lows not yet swept"),
    _feature("sweep", _HLC, "sign", "direction of the last sweep: -1 of highs, 1 of lows"),
    _feature("sweep_age", _HLC, "log(1 + bars)", "age of the last sweep"),
    _feature("premium", _HLC, "1", "close in the dealing range: -1 discount, 1 premium"),
    _feature("displacement", _OHLC, "vol", "body of the last displacement, 0 if none of late"),
)
# Columns from the group's first on. What lies below follows what lies above.
SWING_AT, _, STRUCTURE_AT, CHARACTER_AT, BREAK_AGE_AT, BLOCK_AT = range(6)
GAP_AT, _, MITIGATED_AT, POOL_AT, _, SWEEP_AT, SWEEP_AGE_AT = range(7, 14)
PREMIUM_AT, DISPLACEMENT_AT, COLUMNS = range(14, 17)


def features(options: object) -> tuple[Feature, ...]:
    """Return the rows of the feature table; there are no options."""
    return FEATURES


def settings(instruments: object, interval_ns: int, options: object) -> list[int]:
    """Return room for the group's first column, all that the kernel must be told."""
    return [NEVER]


def write_side(row: Row, f: Row, k: Row, slot: int, at: int, side: int, sign: int) -> None:
    """Write the distances of what lies on one side; `at` is the group's first column.

    The newest element of a stack counts if there is one and it has not come to its end.
    """
    fa, ka = FLOATS_OF[side], INTS_OF[side]
    scale, per_close = 1.0 / f[VOLATILITY], sign / f[CLOSE]
    swing = pool = gap = block = NAN
    if slot - k[ka + SWING_SLOT] <= REACH:
        swing = math.log(f[fa + SWING] * per_close) * scale
    here = ka + POOL_INTS
    if k[here + 1] > 0 and slot - k[here + 2 + k[here]] <= LIFE:
        pool = math.log(f[fa + POOLS] * per_close) * scale
    here = ka + GAP_INTS
    if k[here + 1] > 0 and slot - k[here + 2 + k[here]] <= LIFE:
        gap = math.log(f[fa + GAPS] * per_close) * scale
    here = ka + BLOCK_INTS
    if k[here + 1] > 0 and slot - k[here + 2 + k[here]] <= LIFE:
        block = math.log(f[fa + BLOCKS + FAR_EDGES + k[here]] * per_close) * scale
    at += side
    row[at + SWING_AT], row[at + POOL_AT], row[at + GAP_AT] = swing, pool, gap
    row[at + BLOCK_AT] = block


def write_signs(row: Row, f: Row, k: Row, slot: int, at: int) -> None:
    """Write what happened last, and how long ago."""
    row[at + STRUCTURE_AT] = row[at + CHARACTER_AT] = row[at + SWEEP_AT] = 0.0
    row[at + BREAK_AGE_AT] = row[at + SWEEP_AGE_AT] = NAN
    age = slot - k[BREAK_SLOT]
    if age <= TREND_REACH:
        kind = CHARACTER_AT if k[BREAK_IS_CHANGE] == 1 else STRUCTURE_AT
        row[at + kind] = float(k[BREAK_DIRECTION])
        row[at + BREAK_AGE_AT] = math.log(1.0 + age)
    age = slot - k[SWEEP_SLOT]
    if age <= REACH:
        row[at + SWEEP_AT] = float(k[SWEEP_DIRECTION])
        row[at + SWEEP_AGE_AT] = math.log(1.0 + age)
    mitigated = k[MITIGATED]
    row[at + MITIGATED_AT] = 1.0 if mitigated > 0 else (-1.0 if mitigated < 0 else 0.0)
    is_recent = slot - k[DISPLACEMENT_SLOT] <= DISPLACEMENT_REACH
    row[at + DISPLACEMENT_AT] = f[DISPLACEMENT] if is_recent else 0.0


def dealing_edge(f: Row, k: Row, slot: int, side: int) -> float:
    """Return the edge of the dealing range on one side, times its sign; infinite if unknown."""
    fa, ka = FLOATS_OF[side], INTS_OF[side]
    if slot - k[ka + SWING_SLOT] > REACH:
        return math.inf
    edge: float = max(f[fa + SWING], f[fa + EXTREMES + (slot & LAST_BAR)])
    if slot - k[ka + PRIOR_SLOT] <= REACH:
        edge = max(edge, f[fa + PRIOR_SWING])
    return edge


def write(row: Row, f: Row, k: Row, slot: int, at: int) -> None:
    """Write the group's columns; NaN while the market stands still."""
    if f[VOLATILITY] <= 0.0:
        for column in range(COLUMNS):
            row[at + column] = NAN
        return
    write_side(row, f, k, slot, at, ABOVE, 1)
    write_side(row, f, k, slot, at, BELOW, -1)
    write_signs(row, f, k, slot, at)
    top, bottom = dealing_edge(f, k, slot, ABOVE), -dealing_edge(f, k, slot, BELOW)
    row[at + PREMIUM_AT] = NAN
    if top < math.inf and bottom > -math.inf and top > bottom:
        row[at + PREMIUM_AT] = math.log(f[CLOSE] * f[CLOSE] / (top * bottom)) / math.log(
            top / bottom
        )


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
    """Take all bars of one slot in and write the group's columns of each valid row.

    Parameters
    ----------
    slot : int
        ``ts_init // interval_ns`` of the bars.
    interval_ns : int
        Length of a bar in nanoseconds.
    present : (n_instruments,) int64
        1 where an instrument has a bar, else 0.
    bars : (n_instruments + 1, >= 5) float64
        Open, high, low, close, volume; the last row is scratch.
    floats, ints : (n_instruments, FLOATS) float64, (n_instruments, INTS) int64
        The state, changed in place.
    settings : (1,) int64
        The group's first column.
    rows : (n_rows, n_features) float64
        Receive the features.
    at : (n_instruments,) int64
        Which row of `rows` belongs to an instrument.
    valid : (n_rows,) bool
        Whether a row is to be written: False during warm-up, when it is NaN already.
    """
    for index in range(len(floats)):
        f, k = floats[index], ints[index]
        first = first_slot(k, slot, present[index])
        for now in range(first, slot + 1):
            is_real = now == slot and present[index] == 1
            push(f, k, now, bars[index] if is_real else carried(bars, f[CLOSE]))
        if present[index] and valid[at[index]]:
            write(rows[at[index]], f, k, slot, settings[0])


HELPERS = (
    *(*smc_structure.HELPERS, first_slot, carried),
    *(write_side, write_signs, dealing_edge, write, step),
)
"""What `step` calls, callees first, and `step` itself."""

SOURCES = (smc_structure,)
"""Modules beyond this one and `research.kernels` whose source decides the values."""
