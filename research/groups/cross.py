"""How an instrument moves with the lead (BTC) and where it stands among all of them.

Correlation and beta are those of one-bar log returns over the last `WINDOW` slots, without
subtracting means: over a day a mean return is noise, and the volatility that everything is
measured in (``vol``) does not subtract it either. The lead against itself is the limit: correlation
1, beta 1, residual 0, exactly. Its lead-lag score is its own autocorrelation.

What counts: an instrument is known to others while its run is at least `kernels.CROSS_SLOTS`
slots old and its last bar not older than `kernel_tools.MAX_CARRIED`; until then and after that it
is left out, as in the base table. Sums over windows are `kernel_tools.slide`: additions only, so
nothing drifts and nothing stays behind.

Memory: `WINDOW` + 2 slots of bars of an instrument and the lead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from catalog.errors import ConfigError
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
from research.kernels import CROSS_SLOTS, NAN

NAME = "cross"
WINDOW = 96
LONG = 16

(CORRELATION, BETA, RESIDUAL_1, RESIDUAL_16) = range(4)
LEAD_LAG_1, LEAD_LAG_2, LEAD_LAG_3, LEAD_LAG_SCORE = range(4, 8)
DISPERSION_1, DISPERSION_16, RANK_1, RANK_16, VOLUME_OTHERS = range(8, 13)
COLUMNS = 13

# Layout of an instrument's floats. The ring of returns is longer than any gap that is carried.
CLOSE = 0
LOG_CLOSE, LOG_CLOSE_MASK = 1, 31
CHANGE, CHANGE_MASK = LOG_CLOSE + 32, 127
AFTER = CHANGE + 128
(SQUARES_NOW, SQUARES_BEFORE, PRODUCTS_NOW, LAGGED_NOW) = range(AFTER, AFTER + 4)
VOLUME_NOW, VOLUME_SQUARES_NOW, VOLUME = range(AFTER + 4, AFTER + 7)
# What others may look at. The first is zero where there are no returns to look at, and the last
# but one where there is no volume.
VOLATILITY, RETURN_1, RETURN_16, SCALED_1, SCALED_16 = range(AFTER + 7, AFTER + 12)
TRADED, VOLUME_ZSCORE = AFTER + 12, AFTER + 13
_SIZE = WINDOW + 2
SQUARES = AFTER + 14
PRODUCTS = SQUARES + _SIZE
LAGGED = PRODUCTS + _SIZE
VOLUMES = LAGGED + _SIZE
VOLUME_SQUARES = VOLUMES + _SIZE
FLOATS = VOLUME_SQUARES + _SIZE
INTS = 3

COLUMN_AT, LEAD = range(2)


def features(options: str) -> tuple[Feature, ...]:
    """Return the rows of the feature table; `options` names the lead."""
    pair, everyone = "close lead.close", "close peers.close"
    window = f"of one-bar log returns over {WINDOW} bars, means not subtracted"
    rows = (
        ("correlation", pair, "1", f"correlation with the lead {window}"),
        ("beta", pair, "1", f"beta to the lead {window}"),
        ("residual_1", pair, "vol", "log return of the last bar less beta times the lead's"),
        ("residual_16", pair, "vol", "the same over 16 bars, per vol of 16 bars"),
        ("lead_return_1_lag_1", "lead.close", "vol", "the lead's return one bar before the last"),
        ("lead_return_1_lag_2", "lead.close", "vol", "the lead's return two bars before the last"),
        ("lead_return_1_lag_3", "lead.close", "vol", "the lead's return three before the last"),
        ("lead_lag", pair, "1", f"correlation with the lead's return of the bar before, {window}"),
        ("dispersion_1", everyone, "vol", "standard deviation of return_1 across the set"),
        ("dispersion_16", everyone, "vol", "standard deviation of return_16 across the set"),
        ("rank_1", everyone, "fraction", "share of the others whose return_1 is lower"),
        ("rank_16", everyone, "fraction", "share of the others whose return_16 is lower"),
        (
            "peers_volume_zscore",
            "peers.volume",
            "standard deviation",
            f"volume against its last {WINDOW} bars, mean of the others",
        ),
    )
    warmup = CROSS_SLOTS + MAX_CARRIED
    return tuple(
        Feature(f"cross_{name}", tuple(inputs.split()), warmup, "observed", unit, text)
        for name, inputs, unit, text in rows
    )


def settings(instruments: Sequence[str], interval_ns: int, options: str) -> list[int]:
    """Return the vector that `step` takes.

    Parameters
    ----------
    instruments : sequence of str
        Of the run, by code.
    interval_ns : int
        Length of a bar; it does not matter here.
    options : str
        Instrument id of the lead.

    Raises
    ------
    ConfigError
        If the lead is not an instrument of the run.
    """
    if options not in instruments:
        raise ConfigError(
            f"lead of the cross features must be one of {', '.join(instruments)}, was {options}; "
            "name one of them, or turn the cross features off"
        )
    result = [NEVER, NEVER]
    result[LEAD] = list(instruments).index(options)
    return result


def push(f: Row, k: Row, slot: int, bar: Row, lead: Row) -> None:
    """Take one bar of one slot into an instrument's state; the lead must have got there already.

    A lead without a bar for too long leaves in its ring what it did a ring ago. The sums that
    take it in are read by nobody: that begins when both have run for `CROSS_SLOTS`.
    """
    log_close = math.log(bar[3])
    change = 0.0
    if k[RUN_START] != slot:
        change = log_close - f[LOG_CLOSE + ((slot - 1) & LOG_CLOSE_MASK)]
    f[CLOSE], f[VOLUME] = bar[3], bar[4]
    f[LOG_CLOSE + (slot & LOG_CLOSE_MASK)] = log_close
    f[CHANGE + (slot & CHANGE_MASK)] = change
    now, before = lead[CHANGE + (slot & CHANGE_MASK)], lead[CHANGE + ((slot - 1) & CHANGE_MASK)]
    position = slot % WINDOW
    f[SQUARES_BEFORE] = f[SQUARES_NOW]
    f[SQUARES_NOW] = slide(f, SQUARES, WINDOW, position, change * change)
    f[PRODUCTS_NOW] = slide(f, PRODUCTS, WINDOW, position, change * now)
    f[LAGGED_NOW] = slide(f, LAGGED, WINDOW, position, change * before)
    f[VOLUME_NOW] = slide(f, VOLUMES, WINDOW, position, bar[4])
    f[VOLUME_SQUARES_NOW] = slide(f, VOLUME_SQUARES, WINDOW, position, bar[4] * bar[4])


def advance(
    floats: Table, ints: Table, index: int, slot: int, present: Row, bars: Table, lead: int
) -> None:
    """Bring one instrument to a slot, with its bar or, if it has none, with its last close."""
    f, k = floats[index], ints[index]
    first = first_slot(k, slot, present[index])
    for now in range(first, slot + 1):
        bar = bars[index] if now == slot and present[index] else carried(bars, f[CLOSE])
        push(f, k, now, bar, floats[lead])
    f[VOLATILITY] = f[TRADED] = 0.0
    if first > slot or slot - k[RUN_START] < CROSS_SLOTS:
        return
    f[VOLATILITY] = volatility = math.sqrt(f[SQUARES_NOW] / WINDOW)
    f[RETURN_1] = f[CHANGE + (slot & CHANGE_MASK)]
    start = f[LOG_CLOSE + ((slot - LONG) & LOG_CLOSE_MASK)]
    f[RETURN_16] = f[LOG_CLOSE + (slot & LOG_CLOSE_MASK)] - start
    if volatility > 0.0:
        f[SCALED_1] = f[RETURN_1] / volatility
        f[SCALED_16] = f[RETURN_16] / (4.0 * volatility)
    mean = f[VOLUME_NOW] / WINDOW
    variance = f[VOLUME_SQUARES_NOW] / WINDOW - mean * mean
    if variance > 0.0:
        f[TRADED] = 1.0
        f[VOLUME_ZSCORE] = (f[VOLUME] - mean) / math.sqrt(variance)


def write_pair(row: Row, first: int, f: Row, lead: Row, is_lead: bool) -> None:
    """Write what an instrument has in common with the lead, both known and moving."""
    scale = 1.0 / f[VOLATILITY]
    if is_lead:
        row[first + CORRELATION] = row[first + BETA] = 1.0
        row[first + RESIDUAL_1] = row[first + RESIDUAL_16] = 0.0
    else:
        beta = f[PRODUCTS_NOW] / lead[SQUARES_NOW]
        row[first + CORRELATION] = beta * lead[VOLATILITY] * scale
        row[first + BETA] = beta
        row[first + RESIDUAL_1] = (f[RETURN_1] - beta * lead[RETURN_1]) * scale
        row[first + RESIDUAL_16] = (f[RETURN_16] - beta * lead[RETURN_16]) * (scale * 0.25)
    both = f[SQUARES_NOW] * lead[SQUARES_BEFORE]
    row[first + LEAD_LAG_SCORE] = f[LAGGED_NOW] / math.sqrt(both) if both > 0.0 else NAN


def write_lags(row: Row, first: int, lead: Row, slot: int) -> None:
    """Write the returns of the lead before its last one."""
    scale = 1.0 / lead[VOLATILITY]
    row[first + LEAD_LAG_1] = lead[CHANGE + ((slot - 1) & CHANGE_MASK)] * scale
    row[first + LEAD_LAG_2] = lead[CHANGE + ((slot - 2) & CHANGE_MASK)] * scale
    row[first + LEAD_LAG_3] = lead[CHANGE + ((slot - 3) & CHANGE_MASK)] * scale


def dispersion(floats: Table, place: int) -> float:
    """Return the standard deviation of a number over the instruments that have it."""
    total = 0.0
    count = 0
    for index in range(len(floats)):
        if floats[index][VOLATILITY] > 0.0:
            total += floats[index][place]
            count += 1
    if count < 2:
        return NAN
    mean = total / count
    squares = 0.0
    for index in range(len(floats)):
        if floats[index][VOLATILITY] > 0.0:
            away = floats[index][place] - mean
            squares += away * away
    return math.sqrt(squares / count)


def write_place(row: Row, first: int, floats: Table, index: int) -> None:
    """Write where an instrument stands among the others, those that are equal counting half."""
    own = floats[index]
    lower_1 = lower_16 = volume = 0.0
    ranked = traded = 0
    for other in range(len(floats)):
        if other != index:
            f = floats[other]
            if f[VOLATILITY] > 0.0:
                ranked += 1
                if f[SCALED_1] <= own[SCALED_1]:
                    lower_1 += 1.0 if f[SCALED_1] < own[SCALED_1] else 0.5
                if f[SCALED_16] <= own[SCALED_16]:
                    lower_16 += 1.0 if f[SCALED_16] < own[SCALED_16] else 0.5
            if f[TRADED] > 0.0:
                traded += 1
                volume += f[VOLUME_ZSCORE]
    is_ranked = ranked > 0 and own[VOLATILITY] > 0.0
    row[first + RANK_1] = lower_1 / ranked if is_ranked else NAN
    row[first + RANK_16] = lower_16 / ranked if is_ranked else NAN
    row[first + VOLUME_OTHERS] = volume / traded if traded > 0 else NAN


def write(row: Row, floats: Table, index: int, slot: int, settings: Row) -> None:
    """Write an instrument's own columns, the dispersion of the set apart."""
    first, lead = settings[COLUMN_AT], settings[LEAD]
    write_place(row, first, floats, index)
    known = floats[lead][VOLATILITY] > 0.0
    if known:
        write_lags(row, first, floats[lead], slot)
    if known and floats[index][VOLATILITY] > 0.0:
        write_pair(row, first, floats[index], floats[lead], index == lead)
        return
    for column in range(LEAD_LAG_SCORE + 1):
        if not (known and LEAD_LAG_1 <= column <= LEAD_LAG_3):
            row[first + column] = NAN


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
    settings : (2,) int64
        From `settings`, with the first column filled in.
    """
    lead = settings[LEAD]
    # The lead first: the others multiply their returns with its.
    advance(floats, ints, lead, slot, present, bars, lead)
    for index in range(len(floats)):
        if index != lead:
            advance(floats, ints, index, slot, present, bars, lead)
    spread_1, spread_16 = dispersion(floats, SCALED_1), dispersion(floats, SCALED_16)
    for index in range(len(floats)):
        if present[index] and valid[at[index]]:
            row = rows[at[index]]
            write(row, floats, index, slot, settings)
            row[settings[COLUMN_AT] + DISPERSION_1] = spread_1
            row[settings[COLUMN_AT] + DISPERSION_16] = spread_16


HELPERS = (
    *(first_slot, carried, slide, push, advance),
    *(write_pair, write_lags, dispersion, write_place, write, step),
)
SOURCES = (kernels,)
