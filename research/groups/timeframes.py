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
interval of which `WINDOW` bars do not fit is refused. All windows are summed anew from the kept
bars, so nothing drifts and nothing older than the window is left in a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from catalog.errors import ConfigError
from catalog.timestamps import interval_name
from catalog.timestamps import interval_ns as interval_length
from research import kernels
from research.feature_table import Feature
from research.kernels import (
    MAX_CARRIED,
    NAN,
    NEVER,
    RUN_START,
    WARMUP_SLOTS,
    Row,
    Table,
    carried,
    first_slot,
)

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
RING = 64
RING_MASK = RING - 1
# Layout of a block: the unfinished bar, what is kept of the complete ones, and their columns.
OPEN, HIGH, LOW, SQUARES, VOLATILITY = range(5)
LOG_CLOSES = 5
VARIANCES = LOG_CLOSES + RING
VALUES = VARIANCES + WINDOW
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


def begin(f: Row, at: int, price: float) -> None:
    """Begin an unfinished bar in which nothing was traded yet."""
    f[at + OPEN] = f[at + HIGH] = f[at + LOW] = price
    f[at + SQUARES] = 0.0


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
    closes, values = at + LOG_CLOSES, at + VALUES
    now = f[LOG_CLOSE]
    f[closes + (number & RING_MASK)] = now
    f[at + VARIANCES + number % WINDOW] = f[at + SQUARES]
    variance = 0.0
    recent = 0.0
    for back in range(WINDOW):
        variance += f[at + VARIANCES + (number - back) % WINDOW]
        if back == 3:
            recent = variance
    volatility = math.sqrt(variance / WINDOW)
    f[at + VOLATILITY] = volatility
    for column in range(KEPT):
        f[values + column] = NAN
    if volatility > 0.0:
        total = 0.0
        for back in range(1, mean_window):
            # Differences are exactly zero where nothing moved.
            total += f[closes + ((number - back) & RING_MASK)] - now
        scale = 1.0 / volatility
        f[values + RETURN_1] = (now - f[closes + ((number - 1) & RING_MASK)]) * scale
        f[values + RETURN_4] = (now - f[closes + ((number - 4) & RING_MASK)]) * (scale * 0.5)
        f[values + MEAN_DISTANCE] = -total / mean_window * (scale / math.sqrt(mean_window))
        f[values + BODY] = math.log(f[CLOSE] / f[at + OPEN]) * scale
        f[values + VOLATILITY_RATIO] = math.sqrt(recent / 4.0) * scale
    f[values + RSI] = strength(f, closes, number)
    high, low = f[at + HIGH], f[at + LOW]
    if high > low:
        f[values + CLOSE_LOCATION] = (f[CLOSE] - low) / (high - low)


def strength(f: Row, closes: int, number: int) -> float:
    """Return gains by gains and losses of the last `RSI_WINDOW` higher bars (Cutler's RSI)."""
    gains = 0.0
    moved = 0.0
    later = f[closes + (number & RING_MASK)]
    for back in range(1, RSI_WINDOW + 1):
        earlier = f[closes + ((number - back) & RING_MASK)]
        change = later - earlier
        if change > 0.0:
            gains += change
            moved += change
        else:
            moved -= change
        later = earlier
    return gains / moved if moved > 0.0 else NAN


def push(f: Row, k: Row, slot: int, bar: Row, settings: Row) -> None:
    """Take one base bar of one slot into an instrument's state."""
    close = bar[3]
    log_close = math.log(close)
    change = 0.0 if k[RUN_START] == slot else log_close - f[LOG_CLOSE]
    f[CLOSE], f[LOG_CLOSE] = close, log_close
    for place in range(settings[COUNT]):
        at = BLOCKS + place * BLOCK
        length = settings[LENGTHS + place]
        phase = slot % length
        if k[RUN_START] == slot:
            for index in range(at, at + BLOCK):
                f[index] = 0.0
            begin(f, at, bar[0])
        elif phase == 1:
            begin(f, at, bar[0])
        f[at + HIGH] = max(f[at + HIGH], bar[1])
        f[at + LOW] = min(f[at + LOW], bar[2])
        f[at + SQUARES] += change * change
        if phase == 0:
            complete(f, at, slot // length, settings[MEANS + place])


def write(row: Row, f: Row, slot: int, settings: Row) -> None:
    """Write the columns of all intervals."""
    for place in range(settings[COUNT]):
        at = BLOCKS + place * BLOCK
        length = settings[LENGTHS + place]
        first = settings[COLUMN_AT] + place * COLUMNS
        for column in range(KEPT):
            row[first + column] = f[at + VALUES + column]
        last = f[at + LOG_CLOSES + ((slot // length) & RING_MASK)]
        volatility = f[at + VOLATILITY]
        unfinished = (f[LOG_CLOSE] - last) / volatility if volatility > 0.0 else NAN
        row[first + UNFINISHED_RETURN] = unfinished
        row[first + PHASE] = (slot % length) / length


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


HELPERS = (first_slot, carried, begin, strength, complete, push, write, step)
SOURCES = (kernels,)
