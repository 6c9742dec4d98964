"""The step of all features over explicit state: plain Python that numba can compile.

This module needs neither numba nor numpy. A live process runs it as it stands; the batch driver and
compiled streams run the same functions compiled (`research.kernel_cache`), without fastmath, so
that every value has the same bits in each.

Memory
------
Time is counted in slots: a bar's slot is ``ts_init // interval_ns``. A missing bar is a slot with
the last close carried forward and no volume. Every value depends on the last `WARMUP_SLOTS`
slots only, so a stream that starts anywhere agrees with a run over all history once it is warm:

- sums over a window of n slots are the suffix of the last absolute block of n slots plus the
  prefix of the current one (van Herk, 1992): additions only, so nothing is ever left behind by
  a subtraction and a market that stands still has a volatility of exactly zero;
- an EMA of span n is started again at every absolute multiple of `EMA_ANCHOR` slots, from the
  close 4 n slots earlier (weight left to it: (1 - 2 / (n + 1)) ** (4 n), 0.03 %);
- a carried close expires after `MAX_CARRIED` slots: the next bar starts the warm-up again, and
  until then the instrument is unknown to the features of others.

State
-----
`floats` and `ints` hold one row per instrument, as 2-D arrays when compiled and as lists of lists
when not. Python indexes lists three times as fast as arrays.
"""

from __future__ import annotations

import math
from typing import Any

from research import kernel_tools
from research.kernel_tools import (
    NEVER,
    RUN_START,
    Row,
    Table,
    carried,
    first_slot,
    slide,
)

NAN = math.nan
TAU = math.tau

EMA_ANCHOR = 128
WARMUP_SLOTS = 960  # EMA 200 and its slope: 800 + one anchor + 15, and some room
CROSS_SLOTS = 128  # what other instruments' features reach back: 96 + 1, with room
FUNDING_EXPIRES_NS = 16 * 3_600_000_000_000
FUNDING_UNIT_NS = 8 * 3_600_000_000_000
RATIO_WINDOW = 48
PER_ROOT_20, PER_ROOT_50 = 1.0 / math.sqrt(20.0), 1.0 / math.sqrt(50.0)
PER_ROOT_96, PER_ROOT_200 = 1.0 / math.sqrt(96.0), 1.0 / math.sqrt(200.0)
GAIN_20, GAIN_50, GAIN_200 = 2.0 / 21.0, 2.0 / 51.0, 2.0 / 201.0
RING = 1024
RING_MASK = RING - 1
SLOPE_RING_MASK = 15

# A window of n slots takes n values, a zero behind them and the running prefix.
_SIZE_14, _SIZE_20, _SIZE_96 = 14 + 2, 20 + 2, 96 + 2

# Layout of an instrument's floats.
LOG_CLOSE = 0
OPEN, HIGH, LOW, CLOSE, VOLUME = range(RING, RING + 5)
EMA_20, EMA_50, EMA_200 = range(RING + 5, RING + 8)
SQUARES_20_NOW, SQUARES_96_NOW, VOLUME_NOW, VOLUME_SQUARES_NOW = range(RING + 8, RING + 12)
SIGNED_NOW, VOLUME_20_NOW, GAINS_NOW, LOSSES_NOW = range(RING + 12, RING + 16)
TRUE_RANGE, FUNDING_RATE = RING + 16, RING + 17
KNOWN, VOLATILITY, SCALED_1, SCALED_4, SCALED_16 = range(RING + 18, RING + 23)
EMA_20_RING = RING + 23
EMA_200_RING = EMA_20_RING + 16
SQUARES_20 = EMA_200_RING + 16
SQUARES_96 = SQUARES_20 + _SIZE_20
VOLUME_96 = SQUARES_96 + _SIZE_96
VOLUME_SQUARES_96 = VOLUME_96 + _SIZE_96
SIGNED_20 = VOLUME_SQUARES_96 + _SIZE_96
VOLUME_20 = SIGNED_20 + _SIZE_20
GAINS_14 = VOLUME_20 + _SIZE_20
LOSSES_14 = GAINS_14 + _SIZE_14
FLOATS = LOSSES_14 + _SIZE_14

# Layout of an instrument's ints: RUN_START, LAST_BAR and CURSOR, then what is below.
FUNDING_TS = 3
INTS = 4

# Layout of the settings: where the optional blocks of columns start, or NEVER when left out.
FUNDING_AT, LEAD, LEAD_AT, PEERS_AT, RATIOS_AT, RATIO_COUNT, CODE_AT = range(7)
SETTINGS = 7

# Layout of the numbers that all instruments share at a timestamp.
DAY_SINE, DAY_COSINE, WEEK_SINE, WEEK_COSINE = range(4)
PEERS_1, PEERS_4, PEERS_COUNT, RATIO_VALUES = range(4, 8)

# Columns that every run has, in the order of `features.BASE_FEATURES`.
RETURN_1, RETURN_1_LAG_1, RETURN_1_LAG_2, RETURN_1_LAG_3 = range(4)
RETURN_4, RETURN_16, RETURN_96 = range(4, 7)
EMA_DISTANCE_20, EMA_DISTANCE_50, EMA_DISTANCE_200, EMA_SLOPE_20, EMA_SLOPE_200 = range(7, 12)
ZSCORE_20, TRUE_RANGE_1, VOLATILITY_20, VOLATILITY_RATIO = range(12, 16)
VOLUME_ZSCORE, SIGNED_VOLUME_20, RSI_14, CLOSE_LOCATION, BODY = range(16, 21)
UPPER_WICK, LOWER_WICK = range(21, 23)
TIME_AT = 23
BASE_COLUMNS = TIME_AT + 4


def restart_ema(f: Row, slot: int, length: int, gain: float) -> float:
    """Return an EMA that starts `length` slots ago from the close of that time."""
    keep = 1.0 - gain
    ema: float = f[LOG_CLOSE + ((slot - length + 1) & RING_MASK)]
    for back in range(length - 2, -1, -1):
        ema = keep * ema + gain * f[LOG_CLOSE + ((slot - back) & RING_MASK)]
    return ema


def push(f: Row, k: Row, slot: int, bar: Row) -> None:
    """Take one bar (open, high, low, close, volume) of one slot into an instrument's state."""
    close, volume = bar[3], bar[4]
    log_close = math.log(close)
    if k[RUN_START] == slot:
        before = log_close
        f[CLOSE] = close
        f[EMA_20] = f[EMA_50] = f[EMA_200] = log_close
    else:
        before = f[LOG_CLOSE + ((slot - 1) & RING_MASK)]
    f[TRUE_RANGE] = math.log(max(bar[1], f[CLOSE]) / min(bar[2], f[CLOSE]))
    f[OPEN], f[HIGH], f[LOW], f[CLOSE], f[VOLUME] = bar[0], bar[1], bar[2], close, volume
    f[LOG_CLOSE + (slot & RING_MASK)] = log_close
    change = log_close - before
    position_20, position_96, position_14 = slot % 20, slot % 96, slot % 14
    f[SQUARES_20_NOW] = slide(f, SQUARES_20, 20, position_20, change * change)
    f[SQUARES_96_NOW] = slide(f, SQUARES_96, 96, position_96, change * change)
    f[VOLUME_NOW] = slide(f, VOLUME_96, 96, position_96, volume)
    f[VOLUME_SQUARES_NOW] = slide(f, VOLUME_SQUARES_96, 96, position_96, volume * volume)
    f[VOLUME_20_NOW] = slide(f, VOLUME_20, 20, position_20, volume)
    signed = volume if change > 0.0 else (-volume if change < 0.0 else 0.0)
    f[SIGNED_NOW] = slide(f, SIGNED_20, 20, position_20, signed)
    f[GAINS_NOW] = slide(f, GAINS_14, 14, position_14, change if change > 0.0 else 0.0)
    f[LOSSES_NOW] = slide(f, LOSSES_14, 14, position_14, -change if change < 0.0 else 0.0)
    if slot % EMA_ANCHOR == 0:
        f[EMA_20] = restart_ema(f, slot, 80, GAIN_20)
        f[EMA_50] = restart_ema(f, slot, 200, GAIN_50)
        f[EMA_200] = restart_ema(f, slot, 800, GAIN_200)
    else:
        f[EMA_20] += GAIN_20 * (log_close - f[EMA_20])
        f[EMA_50] += GAIN_50 * (log_close - f[EMA_50])
        f[EMA_200] += GAIN_200 * (log_close - f[EMA_200])
    f[EMA_20_RING + (slot & SLOPE_RING_MASK)] = f[EMA_20]
    f[EMA_200_RING + (slot & SLOPE_RING_MASK)] = f[EMA_200]


def advance(f: Row, k: Row, slot: int, present: int, bars: Table, index: int) -> None:
    """Bring one instrument to a slot, with its bar or, if it has none, with its last close."""
    f[KNOWN] = 0.0
    first = first_slot(k, slot, present)
    if first > slot:
        return
    for at in range(first, slot + 1):
        push(f, k, at, bars[index] if at == slot and present else carried(bars, f[CLOSE]))
    if slot - k[RUN_START] >= CROSS_SLOTS:
        summarise(f, slot)


def summarise(f: Row, slot: int) -> None:
    """Work out what an instrument's own row and the rows of others both need."""
    f[KNOWN] = 1.0
    f[VOLATILITY] = volatility = math.sqrt(f[SQUARES_96_NOW] / 96.0)
    if volatility > 0.0:
        f[SCALED_1] = log_return(f, slot, 0, 1) / volatility
        f[SCALED_4] = log_return(f, slot, 0, 4) / (2.0 * volatility)
        f[SCALED_16] = log_return(f, slot, 0, 16) / (4.0 * volatility)


def log_return(f: Row, slot: int, back: int, bars: int) -> float:
    """Return the log return over `bars` slots that ended `back` slots before `slot`."""
    end: float = f[LOG_CLOSE + ((slot - back) & RING_MASK)]
    start: float = f[LOG_CLOSE + ((slot - back - bars) & RING_MASK)]
    return end - start


def ratio_zscore(fa: Row, fb: Row, slot: int) -> float:
    """Return the z-score of the log price ratio of two instruments over `RATIO_WINDOW` slots."""
    now = fa[LOG_CLOSE + (slot & RING_MASK)] - fb[LOG_CLOSE + (slot & RING_MASK)]
    total = 0.0
    squares = 0.0
    for back in range(1, RATIO_WINDOW, 2):
        # Differences from the present value are exactly zero where nothing moved. Two at a time
        # wait half as long for each other's additions.
        at = LOG_CLOSE + ((slot - back) & RING_MASK)
        one = (fa[at] - fb[at]) - now
        at = LOG_CLOSE + ((slot - back + 1) & RING_MASK)
        other = (fa[at] - fb[at]) - now
        total += one + other
        squares += one * one + other * other
    mean = total / RATIO_WINDOW
    variance = squares / RATIO_WINDOW - mean * mean
    return -mean / math.sqrt(variance) if variance > 0.0 else NAN


def share(
    slot: int, interval_ns: int, floats: Table, ints: Table, settings: Row, ratios: Row, shared: Row
) -> None:
    """Compute what all instruments have in common at a timestamp."""
    seconds = slot * interval_ns // 1_000_000_000
    day = TAU * (seconds % 86_400) / 86_400.0
    week = TAU * ((seconds + 3 * 86_400) % 604_800) / 604_800.0  # 1970-01-01 was a Thursday
    shared[DAY_SINE], shared[DAY_COSINE] = math.sin(day), math.cos(day)
    shared[WEEK_SINE], shared[WEEK_COSINE] = math.sin(week), math.cos(week)
    shared[PEERS_1] = shared[PEERS_4] = shared[PEERS_COUNT] = 0.0
    for index in range(len(floats)):
        if floats[index][KNOWN] > 0.0 and floats[index][VOLATILITY] > 0.0:
            shared[PEERS_1] += floats[index][SCALED_1]
            shared[PEERS_4] += floats[index][SCALED_4]
            shared[PEERS_COUNT] += 1.0
    for index in range(settings[RATIO_COUNT]):
        a, b = ratios[2 * index], ratios[2 * index + 1]
        value = NAN
        if floats[a][KNOWN] > 0.0 and floats[b][KNOWN] > 0.0:
            value = ratio_zscore(floats[a], floats[b], slot)
        shared[RATIO_VALUES + index] = value


def write_trend(row: Row, f: Row, slot: int) -> None:
    """Write the columns made of closes alone."""
    volatility = f[VOLATILITY]
    scale = 1.0 / volatility
    log_close = f[LOG_CLOSE + (slot & RING_MASK)]
    row[RETURN_1] = f[SCALED_1]
    row[RETURN_1_LAG_1] = log_return(f, slot, 1, 1) * scale
    row[RETURN_1_LAG_2] = log_return(f, slot, 2, 1) * scale
    row[RETURN_1_LAG_3] = log_return(f, slot, 3, 1) * scale
    row[RETURN_4] = f[SCALED_4]
    row[RETURN_16] = f[SCALED_16]
    row[RETURN_96] = log_return(f, slot, 0, 96) * (scale * PER_ROOT_96)
    row[EMA_DISTANCE_20] = (log_close - f[EMA_20]) * (scale * PER_ROOT_20)
    row[EMA_DISTANCE_50] = (log_close - f[EMA_50]) * (scale * PER_ROOT_50)
    row[EMA_DISTANCE_200] = (log_close - f[EMA_200]) * (scale * PER_ROOT_200)
    oldest = (slot + 1) & SLOPE_RING_MASK
    row[EMA_SLOPE_20] = (f[EMA_20] - f[EMA_20_RING + oldest]) * (scale * 0.25)
    row[EMA_SLOPE_200] = (f[EMA_200] - f[EMA_200_RING + oldest]) * (scale * 0.25)
    total = 0.0
    squares = 0.0
    for back in range(1, 20, 2):
        one = f[LOG_CLOSE + ((slot - back) & RING_MASK)] - log_close
        other = f[LOG_CLOSE + ((slot - back + 1) & RING_MASK)] - log_close
        total += one + other
        squares += one * one + other * other
    mean = total / 20.0
    variance = squares / 20.0 - mean * mean
    row[ZSCORE_20] = -mean / math.sqrt(variance) if variance > 0.0 else NAN


def write_candle(row: Row, f: Row) -> None:
    """Write the columns made of the last candle, of volatility and of volume."""
    scale = 1.0 / f[VOLATILITY]
    row[TRUE_RANGE_1] = f[TRUE_RANGE] * scale
    volatility_20 = math.sqrt(f[SQUARES_20_NOW] / 20.0)
    row[VOLATILITY_20] = volatility_20
    row[VOLATILITY_RATIO] = volatility_20 * scale
    mean = f[VOLUME_NOW] / 96.0
    variance = f[VOLUME_SQUARES_NOW] / 96.0 - mean * mean
    row[VOLUME_ZSCORE] = (f[VOLUME] - mean) / math.sqrt(variance) if variance > 0.0 else NAN
    traded = f[VOLUME_20_NOW]
    row[SIGNED_VOLUME_20] = f[SIGNED_NOW] / traded if traded > 0.0 else NAN
    moved = f[GAINS_NOW] + f[LOSSES_NOW]
    row[RSI_14] = f[GAINS_NOW] / moved if moved > 0.0 else NAN
    high, low, close = f[HIGH], f[LOW], f[CLOSE]
    row[CLOSE_LOCATION] = (close - low) / (high - low) if high > low else NAN
    row[BODY] = math.log(close / f[OPEN]) * scale
    row[UPPER_WICK] = math.log(high / max(f[OPEN], close)) * scale
    row[LOWER_WICK] = math.log(min(f[OPEN], close) / low) * scale


def write_others(row: Row, f: Row, floats: Table, settings: Row, shared: Row) -> None:
    """Write the columns made of other instruments."""
    lead = settings[LEAD]
    if lead != NEVER:
        at = settings[LEAD_AT]
        row[at] = row[at + 1] = row[at + 2] = row[at + 3] = row[at + 4] = NAN
        if floats[lead][KNOWN] > 0.0 and floats[lead][VOLATILITY] > 0.0:
            row[at] = floats[lead][SCALED_1]
            row[at + 1] = floats[lead][SCALED_4]
            row[at + 2] = floats[lead][SCALED_16]
            row[at + 3] = row[RETURN_1] - row[at]
            row[at + 4] = row[RETURN_16] - row[at + 2]
    at = settings[PEERS_AT]
    if at != NEVER:
        row[at] = row[at + 1] = NAN
        # A warm instrument that moved is one of those counted: the others are what remains.
        moved = f[VOLATILITY] > 0.0
        others = shared[PEERS_COUNT] - (1.0 if moved else 0.0)
        if others > 0.0:
            row[at] = (shared[PEERS_1] - (f[SCALED_1] if moved else 0.0)) / others
            row[at + 1] = (shared[PEERS_4] - (f[SCALED_4] if moved else 0.0)) / others
    at = settings[RATIOS_AT]
    for pair in range(settings[RATIO_COUNT]):
        row[at + pair] = shared[RATIO_VALUES + pair]


def write_row(row: Row, f: Row, shared: Row, slot: int) -> None:
    """Write the columns that every run has."""
    if f[VOLATILITY] > 0.0:
        write_trend(row, f, slot)
        write_candle(row, f)
    else:
        for column in range(TIME_AT):
            row[column] = NAN
    for column in range(4):
        row[TIME_AT + column] = shared[DAY_SINE + column]


def write_funding(row: Row, at: int, age: int, rate: float) -> None:
    """Write the funding columns from the age of the last known rate in nanoseconds."""
    row[at] = row[at + 1] = NAN
    if age < FUNDING_EXPIRES_NS:
        row[at] = 10_000.0 * rate
        row[at + 1] = age / FUNDING_UNIT_NS


def step(
    slot: int,
    interval_ns: int,
    present: Row,
    bars: Table,
    floats: Table,
    ints: Table,
    settings: Row,
    ratios: Row,
    shared: Row,
    rows: Table,
    at: Row,
    valid: Row,
) -> None:
    """Take all bars of one slot in and write a row for each instrument that has one.

    Parameters
    ----------
    slot : int
        ``ts_init // interval_ns`` of the bars.
    interval_ns : int
        Length of a bar in nanoseconds.
    present : (n_instruments,) int64
        1 where an instrument has a bar, else 0.
    bars : (n_instruments + 1, 5) float64
        Open, high, low, close, volume; the last row is scratch.
    floats, ints : (n_instruments, FLOATS) float64, (n_instruments, INTS) int64
        The state, changed in place.
    settings, ratios : (SETTINGS,) int64, (2 * n_ratios,) int64
        Where the optional columns start; pairs of instrument codes.
    shared : (RATIO_VALUES + n_ratios,) float64
        Scratch.
    rows, valid : (n_rows, n_features) float64, (n_rows,) bool
        Receive the features, NaN during warm-up, and whether a row may be used.
    at : (n_instruments,) int64
        Which row of `rows` belongs to an instrument.
    """
    count = len(floats)
    for index in range(count):
        advance(floats[index], ints[index], slot, present[index], bars, index)
    share(slot, interval_ns, floats, ints, settings, ratios, shared)
    for index in range(count):
        if present[index]:
            row = rows[at[index]]
            if slot - ints[index][RUN_START] >= WARMUP_SLOTS:
                valid[at[index]] = True
                write_row(row, floats[index], shared, slot)
                if settings[FUNDING_AT] != NEVER:
                    # No rate yet: the stamp NEVER is older than any rate may be.
                    age = slot * interval_ns - ints[index][FUNDING_TS]
                    write_funding(row, settings[FUNDING_AT], age, floats[index][FUNDING_RATE])
                write_others(row, floats[index], floats, settings, shared)
                if settings[CODE_AT] != NEVER:
                    row[settings[CODE_AT]] = float(index)
            else:
                valid[at[index]] = False
                for column in range(len(row)):
                    row[column] = NAN


def gather(ts_init: Row, recorded: Table, cursors: Table, present: Row, bars: Table) -> int:
    """Lay out the bars of the next timestamp; return it, or NEVER when there is none left."""
    ts: int = NEVER
    for index in range(len(present)):
        at = cursors[0][index]
        if at < cursors[1][index] and (ts == NEVER or ts_init[at] < ts):
            ts = ts_init[at]
    for index in range(len(present)):
        at = cursors[0][index]
        present[index] = 0
        if at < cursors[1][index] and ts_init[at] == ts:
            present[index] = 1
            for column in range(5):
                bars[index][column] = recorded[at][column]
    return ts


def passed(cursors: Table, present: Row) -> int:
    """Move on from the bars that were gathered; return how many they were."""
    done = 0
    for index in range(len(present)):
        cursors[0][index] += present[index]
        done += present[index]
    return done


def run(
    limit: int,
    interval_ns: int,
    feed: Any,
    funding: Any,
    cursors: Table,
    state: Any,
    settings: Row,
    ratios: Row,
    scratch: Any,
    rows: Table,
    valid: Row,
) -> int:
    """Loop `step` over up to `limit` timestamps of recorded bars; return how many rows are done.

    Parameters
    ----------
    limit : int
        Most timestamps to take in this call.
    interval_ns : int
        Length of a bar in nanoseconds.
    feed : tuple of (n_rows,) int64 and (n_rows, 5) float64
        `ts_init` and the bars, instrument after instrument.
    funding : tuple of (n_settlements,) int64 and (n_settlements,) float64
        `ts_init` and the rates, instrument after instrument.
    cursors : (4, n_instruments) int64
        Next row and end of each instrument's bars, then of its funding; changed in place.
    state : tuple
        `floats` and `ints` of `step`.
    scratch : tuple
        `present`, `bars` and `shared` of `step`.
    settings, ratios, rows, valid : arrays
        As in `step`; one row per bar.
    """
    ts_init, recorded = feed
    funding_ts, funding_rate = funding
    floats, ints = state
    present, bars, shared = scratch
    count = len(floats)
    done = 0
    for _ in range(limit):
        ts = gather(ts_init, recorded, cursors, present, bars)
        if ts == NEVER:
            break
        for index in range(count):
            # A settlement known at the bar's own stamp counts.
            while cursors[2][index] < cursors[3][index] and funding_ts[cursors[2][index]] <= ts:
                floats[index][FUNDING_RATE] = funding_rate[cursors[2][index]]
                ints[index][FUNDING_TS] = funding_ts[cursors[2][index]]
                cursors[2][index] += 1
        step(
            ts // interval_ns,
            interval_ns,
            present,
            bars,
            floats,
            ints,
            settings,
            ratios,
            shared,
            rows,
            cursors[0],
            valid,
        )
        done += passed(cursors, present)
    return done


HELPERS = (
    *(slide, restart_ema, log_return, push, first_slot, carried, summarise, advance),
    *(ratio_zscore, share, write_trend, write_candle, write_row, write_funding, write_others),
    *(gather, passed, step),
)
"""What the entry points call."""

SOURCES = (kernel_tools,)
"""Further modules whose source decides the values."""

ENTRY_POINTS = (step, run)
"""What is called from Python: compiled by `research.kernel_cache`."""
