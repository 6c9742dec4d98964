"""Whether a market is trending or turning back: three statistics and a verdict, all causal.

efficiency
    Kaufman's efficiency ratio (1995): the net move of the last `PATH` bars by the length of the
    path that led there. 1 on a straight line; about 1 / sqrt(`PATH`) = 0.14 for a random walk.
variance ratio
    Lo and MacKinlay's (1988), of overlapping returns over `HORIZON` bars to those over one, in the
    last `WINDOW` bars: 1 for a random walk with a standard deviation of
    sqrt(2 (2q - 1)(q - 1) / (3 q n)) = 0.21, more where moves go on, less where they turn back.
    Deviation from the paper: the mean return is taken as zero, because drift within two days is
    trend, and because then nothing is subtracted and a straight line has a ratio of `HORIZON`.
volatility percentile
    Share of `SAMPLES` earlier readings, taken every `SPACING` slots, that lie below the root mean
    square return of the last `RECENT` bars now.
regime
    1 (trend): efficiency at least `TREND_EFFICIENCY`, variance ratio at least `TREND_RATIO`, and
    volatility not among the lowest `CALM`: a drift in a dead market is no trend.
    -1 (mean-reverting): efficiency at most `REVERSION_EFFICIENCY`, variance ratio at most
    `REVERSION_RATIO` (a standard deviation below 1), and volatility not above `TURBULENT`: the
    first bars of a shock have had no time to raise the other two.
    0 (neutral): anything else. NaN: one of the three is not defined.

The regime says what the market has been doing; it promises nothing. Of a random walk these
thresholds call a tenth of the time a trend and as much mean-reverting; of BTC in 15-minute bars in
2023, 9 % and 22 %.

A row is usable at the close of its bar. Every value depends on the last `MEMORY` slots only: sums
over windows as in `research.kernels`, readings at absolute multiples of `SPACING`.
"""

from __future__ import annotations

import math

from research.feature_table import Feature
from research.kernel_tools import (
    MAX_CARRIED,
    NEVER,
    RUN_START,
    Row,
    Table,
    carried,
    first_slot,
    slide,
)
from research.kernels import NAN

NAME = "regime"

PATH, HORIZON, WINDOW, RECENT = 48, 8, 192, 20
SAMPLES, SPACING = 48, 16
TREND_EFFICIENCY, REVERSION_EFFICIENCY = 0.2, 0.1
TREND_RATIO, REVERSION_RATIO = 1.0, 0.8
CALM, TURBULENT = 0.2, 0.9
MEMORY = SAMPLES * SPACING + RECENT + 1
_LONG_RETURNS = WINDOW - HORIZON + 1
_RING = 64  # more than PATH
_RING_MASK = _RING - 1

# Layout of an instrument's floats: the first is that of all groups. A window of n takes n + 2.
CLOSE, LENGTH_NOW, SQUARES_NOW, LONG_SQUARES_NOW, VOLATILITY, LOG_CLOSES = range(6)
LENGTHS = LOG_CLOSES + _RING
SQUARES = LENGTHS + PATH + 2
LONG_SQUARES = SQUARES + WINDOW + 2
RECENT_SQUARES = LONG_SQUARES + _LONG_RETURNS + 2
READINGS = RECENT_SQUARES + RECENT + 2
SORTED = READINGS + SAMPLES
FLOATS = SORTED + SAMPLES
INTS = 3

EFFICIENCY_AT, RATIO_AT, PERCENTILE_AT, REGIME_AT = range(4)

_NAMES = {-1: "mean_reverting", 0: "neutral", 1: "trend"}


def regime_name(code: float) -> str:
    """Return what the column `regime` says: ``trend``, ``neutral`` or ``mean_reverting``.

    NaN, the regime of a market that stands still, has an empty name.

    Raises
    ------
    ValueError
        If the code is none of -1, 0, 1 and NaN.
    """
    if math.isnan(code):
        return ""
    if code not in _NAMES:
        raise ValueError(f"regime must be -1, 0, 1 or NaN, was {code}")
    return _NAMES[int(code)]


def _feature(name: str, memory: int, unit: str, description: str) -> Feature:
    # Carried closes may hide that many slots of a start.
    return Feature(name, ("close",), memory + MAX_CARRIED, "observed", unit, description)


def features(options: object) -> tuple[Feature, ...]:
    """Return the rows of the feature table; there are no options."""
    return (
        _feature("regime_efficiency", PATH + 1, "fraction", f"net move by path, {PATH} bars"),
        _feature(
            "regime_variance_ratio",
            WINDOW + 1,
            "1",
            f"variance over {HORIZON} bars by {HORIZON} times that over one, {WINDOW} bars",
        ),
        _feature(
            "regime_volatility_percentile",
            MEMORY,
            "fraction",
            f"share of {SAMPLES} earlier volatilities of {RECENT} bars that are lower",
        ),
        _feature("regime", MEMORY, "sign", "-1 mean-reverting, 0 neutral, 1 trend"),
    )


def settings(instruments: object, interval_ns: int, options: object) -> list[int]:
    """Return room for the group's first column, all that the kernel must be told."""
    return [NEVER]


def forget(f: Row, close: float) -> None:
    """Start from a market that has stood still at a price for ever."""
    for index in range(FLOATS):
        f[index] = 0.0
    f[CLOSE] = close
    for index in range(_RING):
        f[LOG_CLOSES + index] = math.log(close)


def read_volatility(f: Row, slot: int) -> None:
    """Replace the oldest reading by the present one, in order of time and in order of size."""
    at = READINGS + slot // SPACING % SAMPLES
    oldest, newest = f[at], f[VOLATILITY]
    f[at] = newest
    at = SORTED
    while f[at] != oldest:
        at += 1
    while at + 1 < SORTED + SAMPLES and f[at + 1] < newest:
        f[at] = f[at + 1]
        at += 1
    while at > SORTED and f[at - 1] > newest:
        f[at] = f[at - 1]
        at -= 1
    f[at] = newest


def push(f: Row, k: Row, slot: int, bar: Row) -> None:
    """Take the close of one slot into an instrument's state."""
    close = bar[3]
    if k[RUN_START] == slot:
        forget(f, close)
    log_close = math.log(close)
    change = log_close - f[LOG_CLOSES + ((slot - 1) & _RING_MASK)]
    longer = log_close - f[LOG_CLOSES + ((slot - HORIZON) & _RING_MASK)]
    f[LENGTH_NOW] = slide(f, LENGTHS, PATH, slot % PATH, abs(change))
    f[SQUARES_NOW] = slide(f, SQUARES, WINDOW, slot % WINDOW, change * change)
    f[LONG_SQUARES_NOW] = slide(
        f, LONG_SQUARES, _LONG_RETURNS, slot % _LONG_RETURNS, longer * longer
    )
    squares = slide(f, RECENT_SQUARES, RECENT, slot % RECENT, change * change)
    f[VOLATILITY] = math.sqrt(squares / RECENT)
    if slot % SPACING == 0:
        read_volatility(f, slot)
    f[LOG_CLOSES + (slot & _RING_MASK)] = log_close
    f[CLOSE] = close


def percentile(f: Row) -> float:
    """Return the share of the readings that are lower than the present volatility."""
    volatility = f[VOLATILITY]
    low, high = 0, SAMPLES
    while low < high:
        middle = (low + high) // 2
        if f[SORTED + middle] < volatility:
            low = middle + 1
        else:
            high = middle
    return low / SAMPLES


def verdict(efficiency: float, ratio: float, share: float) -> float:
    """Return the regime: 1 trend, 0 neutral, -1 mean-reverting."""
    if efficiency >= TREND_EFFICIENCY and ratio >= TREND_RATIO and share >= CALM:
        return 1.0
    if efficiency <= REVERSION_EFFICIENCY and ratio <= REVERSION_RATIO and share <= TURBULENT:
        return -1.0
    return 0.0


def write(row: Row, f: Row, slot: int, at: int) -> None:
    """Write the group's columns; NaN while the market stands still."""
    row[at + EFFICIENCY_AT] = row[at + RATIO_AT] = NAN
    row[at + PERCENTILE_AT] = row[at + REGIME_AT] = NAN
    squares, length = f[SQUARES_NOW], f[LENGTH_NOW]
    if f[VOLATILITY] > 0.0:
        row[at + PERCENTILE_AT] = percentile(f)
    if squares > 0.0:
        row[at + RATIO_AT] = f[LONG_SQUARES_NOW] * WINDOW / (_LONG_RETURNS * HORIZON * squares)
    if length > 0.0:
        now = f[LOG_CLOSES + (slot & _RING_MASK)]
        net = now - f[LOG_CLOSES + ((slot - PATH) & _RING_MASK)]
        row[at + EFFICIENCY_AT] = min(1.0, abs(net) / length)
    if squares > 0.0 and length > 0.0 and f[VOLATILITY] > 0.0:
        row[at + REGIME_AT] = verdict(
            row[at + EFFICIENCY_AT], row[at + RATIO_AT], row[at + PERCENTILE_AT]
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
            write(rows[at[index]], f, slot, settings[0])


HELPERS = (
    *(slide, first_slot, carried, forget, read_volatility, push),
    *(percentile, verdict, write, step),
)
"""What `step` calls, callees first, and `step` itself."""

SOURCES = ()
"""Modules beyond this one and `research.kernels` whose source decides the values."""
