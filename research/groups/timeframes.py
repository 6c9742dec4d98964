"""Views of the same instrument at higher intervals, built from its base bars.

A higher bar of n base slots ends at every slot that is a multiple of n (UTC, as exchanges cut
theirs) and takes in the n slots up to it. It is complete at that slot whether or not the base bar
of that slot came: what is missing counts as standing still, as everywhere (`research.kernels`).
Every column but the last two looks at complete higher bars only and so keeps its value until the
next one is complete; the last two say where in the unfinished one we are, from base bars that are
closed.

Units: ``higher vol`` is the root of the mean realised variance of the last 16 complete higher
bars, the realised variance of a bar being the sum of its squared base returns (Andersen and
Bollerslev, 1998). It knows much more than 16 returns would.

Memory: `WINDOW` higher bars and the unfinished one, at most `kernels.WARMUP_SLOTS` base slots. The
mean goes further back where there is room for it: over up to `LONGEST_MEAN` higher bars. An
interval of which `WINDOW` bars do not fit is refused. Sums over windows are `kernel_tools.slide`:
additions only, so nothing drifts and nothing stays behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from catalog.errors import ConfigError
from catalog.timestamps import interval_name
from catalog.timestamps import interval_ns as interval_length
from research import kernels
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
from research.kernels import NAN, WARMUP_SLOTS

NAME = "timeframes"
MAX_TIMEFRAMES = 6
WINDOW = 16
RSI_WINDOW = 14
LONGEST_MEAN = 48

# Columns of one interval. The first `KEPT` change only when a higher bar is complete.
(RETURN_1, RETURN_4, MEAN_DISTANCE, RSI, CLOSE_LOCATION, BODY, VOLATILITY_RATIO) = range(7)
KEPT = 7
UNFINISHED_RETURN, PHASE = KEPT, KEPT + 1
COLUMNS = KEPT + 2

# Layout of an instrument's floats: its last close and its logarithm, then a block per interval.
CLOSE, LOG_CLOSE, BLOCKS = range(3)
# Layout of a block: the unfinished bar, what is kept of the complete ones, and their columns.
OPEN, HIGH, LOW, SQUARES, VOLATILITY = range(5)
LOG_CLOSES, CLOSES_MASK = 5, 7
RECENT, RECENT_MASK = LOG_CLOSES + CLOSES_MASK + 1, 3
VARIANCES = RECENT + RECENT_MASK + 1
GAINS = VARIANCES + WINDOW + 2  # a window of n takes n + 2: see `kernel_tools.slide`
LOSSES = GAINS + RSI_WINDOW + 2
MEAN = LOSSES + RSI_WINDOW + 2
VALUES = MEAN + LONGEST_MEAN + 2
BLOCK = VALUES + KEPT
FLOATS = BLOCKS + MAX_TIMEFRAMES * BLOCK
INTS = 3

# Layout of the settings: first column, number of intervals, then the length of each in base
# slots and, behind them, over how many of its bars its mean goes.
COLUMN_AT, COUNT, LENGTHS = range(3)
MEANS = LENGTHS + MAX_TIMEFRAMES


def features(options: Sequence[str]) -> tuple[Feature, ...]:
    """Return the rows of the feature table for intervals such as ``1h``, in their order."""
    return tuple(feature for interval in options for feature in _features_of(interval))


def _features_of(interval: str) -> tuple[Feature, ...]:
    complete = f"of the last complete {interval} bar"
    unit = f"{interval} vol"
    rows = (
        ("return_1", "close", unit, f"log return {complete}"),
        ("return_4", "close", unit, f"log return over 4 {interval} bars, per vol of 4"),
        (
            "mean_distance",
            "close",
            unit,
            f"log close {complete} less the mean of the last {LONGEST_MEAN}, or as many as fit "
            f"into {WARMUP_SLOTS} base bars, per vol of as many",
        ),
        ("rsi_14", "close", "fraction", f"Cutler's RSI of {RSI_WINDOW} {interval} bars"),
        ("close_location", "high low close", "fraction", f"place of the close in it, {complete}"),
        ("body", "open close", unit, f"log close by open {complete}"),
        ("volatility_ratio", "close", "1", f"vol of the last 4 {interval} bars by that of 16"),
        (
            "unfinished_return",
            "close",
            unit,
            f"log close of the last base bar by that {complete}; 0 when that one ended now",
        ),
    )
    longest = WARMUP_SLOTS + MAX_CARRIED  # how much of it, the base bar's length decides
    seen = tuple(
        Feature(f"tf_{interval}_{name}", tuple(inputs.split()), longest, "observed", unit, text)
        for name, inputs, unit, text in rows
    )
    phase = Feature(
        f"tf_{interval}_phase",
        ("ts_init",),
        0,
        "known_ahead",
        "fraction",
        f"share of the unfinished {interval} bar that is over",
    )
    return (*seen, phase)


def settings(instruments: Sequence[str], interval_ns: int, options: Sequence[str]) -> list[int]:
    """Return the vector that `step` takes: where its columns are and how long each interval is.

    Parameters
    ----------
    instruments : sequence of str
        Of the run; they do not matter here.
    interval_ns : int
        Length of a base bar in nanoseconds.
    options : sequence of str
        Distinct intervals such as ``1h``, each a multiple of the base bar.

    Raises
    ------
    ConfigError
        If there are too many intervals or one repeats, is not a multiple of the base bar, or is
        so long that its bars do not fit into the memory.
    """
    if len(options) > MAX_TIMEFRAMES:
        raise ConfigError(
            f"timeframes must be at most {MAX_TIMEFRAMES}, were {len(options)}; leave some out"
        )
    if len(set(options)) != len(options):
        raise ConfigError(f"timeframes must be distinct, were {', '.join(options)}")
    result = [NEVER] * (LENGTHS + 2 * MAX_TIMEFRAMES)
    result[COUNT] = len(options)
    for place, interval in enumerate(options):
        slots = _slots(interval, interval_ns)
        result[LENGTHS + place] = slots
        # One bar of room: the unfinished one is at most that long.
        result[MEANS + place] = min(LONGEST_MEAN, WARMUP_SLOTS // slots - 1)
    return result


def _slots(interval: str, base_ns: int) -> int:
    """Return the length of a higher interval in base slots."""
    slots, rest = divmod(interval_length(interval), base_ns)
    base = interval_name(base_ns)
    if rest or slots < 2:
        raise ConfigError(
            f"timeframes must be multiples of the base bar ({base}), were given {interval}"
        )
    longest = WARMUP_SLOTS // (WINDOW + 1)
    if slots > longest:
        raise ConfigError(
            f"timeframes must be at most {longest} base bars ({base}) long, so that {WINDOW} of "
            f"them fit into the memory of the features, was {interval} ({slots} bars); choose a "
            "shorter one or a longer base bar"
        )
    return slots


def complete(f: Row, at: int, number: int, mean_window: int) -> None:
    """Close the unfinished bar of a block and work out the columns that it decides.

    Parameters
    ----------
    f : (FLOATS,) float64
        State of one instrument.
    at : int
        Where the block of the interval begins.
    number : int
        Which higher bar it is: its last slot by the interval's length.
    mean_window : int
        Over how many higher bars the mean goes.
    """
    closes, values, now = at + LOG_CLOSES, at + VALUES, f[LOG_CLOSE]
    change = now - f[closes + ((number - 1) & CLOSES_MASK)]
    f[closes + (number & CLOSES_MASK)] = now
    squares = f[at + SQUARES]
    f[at + RECENT + (number & RECENT_MASK)] = squares
    variance = slide(f, at + VARIANCES, WINDOW, number % WINDOW, squares)
    position = number % RSI_WINDOW
    gains = slide(f, at + GAINS, RSI_WINDOW, position, change if change > 0.0 else 0.0)
    losses = slide(f, at + LOSSES, RSI_WINDOW, position, -change if change < 0.0 else 0.0)
    mean = slide(f, at + MEAN, mean_window, number % mean_window, now) / mean_window
    f[at + VOLATILITY] = volatility = math.sqrt(variance / WINDOW)
    if volatility > 0.0:
        scale = 1.0 / volatility
        f[values + RETURN_1] = change * scale
        f[values + RETURN_4] = (now - f[closes + ((number - 4) & CLOSES_MASK)]) * (scale * 0.5)
        f[values + MEAN_DISTANCE] = (now - mean) * (scale / math.sqrt(mean_window))
        f[values + BODY] = math.log(f[CLOSE] / f[at + OPEN]) * scale
        recent = at + RECENT
        squares = f[recent] + f[recent + 1] + f[recent + 2] + f[recent + 3]
        f[values + VOLATILITY_RATIO] = math.sqrt(squares / 4.0) * scale
    else:
        f[values + RETURN_1] = f[values + RETURN_4] = f[values + MEAN_DISTANCE] = NAN
        f[values + BODY] = f[values + VOLATILITY_RATIO] = NAN
    f[values + RSI] = gains / (gains + losses) if gains + losses > 0.0 else NAN
    high, low = f[at + HIGH], f[at + LOW]
    f[values + CLOSE_LOCATION] = (f[CLOSE] - low) / (high - low) if high > low else NAN


def forget(f: Row, bar: Row) -> None:
    """Begin a run: nothing is known of what was before its first bar."""
    for index in range(BLOCKS, FLOATS):
        f[index] = 0.0
    f[LOG_CLOSE] = math.log(bar[3])
    for place in range(MAX_TIMEFRAMES):
        at = BLOCKS + place * BLOCK
        f[at + OPEN], f[at + HIGH], f[at + LOW] = bar[0], bar[1], bar[2]


def push(f: Row, k: Row, slot: int, bar: Row, settings: Row) -> None:
    """Take one base bar of one slot into an instrument's state."""
    if k[RUN_START] == slot:
        forget(f, bar)
    high, low, close = bar[1], bar[2], bar[3]
    log_close = math.log(close)
    change = log_close - f[LOG_CLOSE]
    square = change * change
    f[CLOSE], f[LOG_CLOSE] = close, log_close
    at = BLOCKS
    for place in range(settings[COUNT]):
        length = settings[LENGTHS + place]
        phase = slot % length
        if phase == 1:
            f[at + OPEN], f[at + HIGH], f[at + LOW], f[at + SQUARES] = bar[0], high, low, square
        else:
            if high > f[at + HIGH]:
                f[at + HIGH] = high
            if low < f[at + LOW]:
                f[at + LOW] = low
            f[at + SQUARES] += square
            if phase == 0:
                complete(f, at, slot // length, settings[MEANS + place])
        at += BLOCK


def write(row: Row, f: Row, slot: int, settings: Row) -> None:
    """Write the columns of all intervals."""
    at, first = BLOCKS, settings[COLUMN_AT]
    for place in range(settings[COUNT]):
        length = settings[LENGTHS + place]
        row[first : first + KEPT] = f[at + VALUES : at + VALUES + KEPT]
        last = f[at + LOG_CLOSES + ((slot // length) & CLOSES_MASK)]
        volatility = f[at + VOLATILITY]
        row[first + UNFINISHED_RETURN] = (
            (f[LOG_CLOSE] - last) / volatility if volatility > 0.0 else NAN
        )
        row[first + PHASE] = (slot % length) / length
        at += BLOCK
        first += COLUMNS


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
    """Take the bars of one slot in and write the columns of each row that is valid.

    Parameters
    ----------
    slot, interval_ns, present, bars, rows, at, valid
        As in `kernels.step`, which ran before.
    floats, ints : (n_instruments, FLOATS) float64, (n_instruments, INTS) int64
        The state of this group, changed in place.
    settings : (LENGTHS + 2 * MAX_TIMEFRAMES,) int64
        From `settings`, with the first column filled in.
    """
    for index in range(len(floats)):
        f, k = floats[index], ints[index]
        first = first_slot(k, slot, present[index])
        for now in range(first, slot + 1):
            bar = bars[index] if now == slot and present[index] else carried(bars, f[CLOSE])
            push(f, k, now, bar, settings)
        if present[index] and valid[at[index]]:
            write(rows[at[index]], f, slot, settings)


HELPERS = (first_slot, carried, slide, complete, forget, push, write, step)
SOURCES = (kernels,)
