"""How an instrument moves with the lead (BTC) and where it stands among all of them.

Correlation and beta are those of one-bar log returns over the last `WINDOW` slots, without
subtracting means: over a day a mean return is noise, and the volatility that everything is
measured in (``vol``) does not subtract it either. The lead against itself is the limit: correlation
1, beta 1, residual 0, exactly. Its lead-lag score is its own autocorrelation.

What counts: an instrument is known to others while its run is at least `kernels.CROSS_SLOTS`
slots old and its last bar not older than `kernels.MAX_CARRIED`; until then and after that it is
left out, as in the base table. Sums over windows are `kernels.slide`: additions only, so nothing
drifts and nothing stays behind.

Memory: `WINDOW` + 2 slots of bars of an instrument and the lead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from catalog.errors import ConfigError
from research import kernels
from research.feature_table import Feature
from research.kernels import (
    CROSS_SLOTS,
    CURSOR,
    MAX_CARRIED,
    NAN,
    NEVER,
    RUN_START,
    Row,
    Table,
    carried,
    first_slot,
    slide,
)

NAME = "cross"
WINDOW = 96
LONG = 16

(CORRELATION, BETA, RESIDUAL_1, RESIDUAL_16) = range(4)
LEAD_LAG_1, LEAD_LAG_2, LEAD_LAG_3, LEAD_LAG_SCORE = range(4, 8)
DISPERSION_1, DISPERSION_16, RANK_1, RANK_16, VOLUME_OTHERS = range(8, 13)
COLUMNS = 13

# Layout of an instrument's floats. A ring as long as the longest gap that is carried, and more.
RING = 128
RING_MASK = RING - 1
CLOSE = 0
LOG_CLOSE = 1
(SQUARES_NOW, SQUARES_BEFORE, PRODUCTS_NOW, LAGGED_NOW) = range(RING + 1, RING + 5)
VOLUME_NOW, VOLUME_SQUARES_NOW, VOLUME = range(RING + 5, RING + 8)
# What others may look at. The volatility is zero where there is nothing to look at.
VOLATILITY, SCALED_1, SCALED_16, VOLUME_ZSCORE = range(RING + 8, RING + 12)
_SIZE = WINDOW + 2
SQUARES = RING + 12
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


def return_at(f: Row, k: Row, slot: int) -> float:
    """Return the one-bar log return of a slot; zero where the instrument's run has none."""
    if slot <= k[RUN_START] or slot > k[CURSOR]:
        return 0.0
    after: float = f[LOG_CLOSE + (slot & RING_MASK)]
    before: float = f[LOG_CLOSE + ((slot - 1) & RING_MASK)]
    return after - before


def push(f: Row, k: Row, slot: int, bar: Row, lead: Row, lead_ints: Row) -> None:
    """Take one bar of one slot into an instrument's state; the lead must be there already.

    Before a run is `CROSS_SLOTS` old its sums hold what was before it, and nobody reads them.
    """
    f[CLOSE] = bar[3]
    f[LOG_CLOSE + (slot & RING_MASK)] = math.log(bar[3])
    f[VOLUME] = bar[4]
    change = return_at(f, k, slot)
    position = slot % WINDOW
    f[SQUARES_BEFORE] = f[SQUARES_NOW]
    f[SQUARES_NOW] = slide(f, SQUARES, WINDOW, position, change * change)
    now, before = return_at(lead, lead_ints, slot), return_at(lead, lead_ints, slot - 1)
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
        push(f, k, now, bar, floats[lead], ints[lead])
    f[VOLATILITY] = 0.0
    f[VOLUME_ZSCORE] = NAN
    if first > slot or slot - k[RUN_START] < CROSS_SLOTS:
        return
    f[VOLATILITY] = volatility = math.sqrt(f[SQUARES_NOW] / WINDOW)
    if volatility > 0.0:
        f[SCALED_1] = log_return(f, slot, 1) / volatility
        f[SCALED_16] = log_return(f, slot, LONG) / (4.0 * volatility)
    mean = f[VOLUME_NOW] / WINDOW
    variance = f[VOLUME_SQUARES_NOW] / WINDOW - mean * mean
    if variance > 0.0:
        f[VOLUME_ZSCORE] = (f[VOLUME] - mean) / math.sqrt(variance)


def log_return(f: Row, slot: int, bars: int) -> float:
    """Return the log return over the last `bars` slots."""
    end: float = f[LOG_CLOSE + (slot & RING_MASK)]
    start: float = f[LOG_CLOSE + ((slot - bars) & RING_MASK)]
    return end - start


def write_pair(row: Row, first: int, f: Row, lead: Row, slot: int, is_lead: bool) -> None:
    """Write what an instrument has in common with the lead, both known and moving."""
    scale = 1.0 / f[VOLATILITY]
    if is_lead:
        row[first + CORRELATION] = row[first + BETA] = 1.0
        row[first + RESIDUAL_1] = row[first + RESIDUAL_16] = 0.0
    else:
        beta = f[PRODUCTS_NOW] / lead[SQUARES_NOW]
        row[first + CORRELATION] = beta * lead[VOLATILITY] * scale
        row[first + BETA] = beta
        row[first + RESIDUAL_1] = (
            log_return(f, slot, 1) - beta * log_return(lead, slot, 1)
        ) * scale
        residual = log_return(f, slot, LONG) - beta * log_return(lead, slot, LONG)
        row[first + RESIDUAL_16] = residual * (scale * 0.25)
    if lead[SQUARES_BEFORE] > 0.0:
        both = f[SQUARES_NOW] * lead[SQUARES_BEFORE]
        row[first + LEAD_LAG_SCORE] = f[LAGGED_NOW] / math.sqrt(both)


def write_lags(row: Row, first: int, lead: Row, slot: int) -> None:
    """Write the returns of the lead before its last one."""
    for lag in range(1, 4):
        end = lead[LOG_CLOSE + ((slot - lag) & RING_MASK)]
        start = lead[LOG_CLOSE + ((slot - lag - 1) & RING_MASK)]
        row[first + LEAD_LAG_1 + lag - 1] = (end - start) / lead[VOLATILITY]


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


def rank(floats: Table, index: int, place: int) -> float:
    """Return the share of the others that are lower, those that are equal counting half."""
    own = floats[index][place]
    lower = 0.0
    count = 0
    for other in range(len(floats)):
        if other != index and floats[other][VOLATILITY] > 0.0:
            value = floats[other][place]
            lower += 1.0 if value < own else (0.5 if value == own else 0.0)
            count += 1
    return lower / count if count > 0 else NAN


def volume_of_others(floats: Table, index: int) -> float:
    """Return the mean volume z-score of the other instruments that have one."""
    total = 0.0
    count = 0
    for other in range(len(floats)):
        score = floats[other][VOLUME_ZSCORE]
        if other != index and not math.isnan(score):
            total += score
            count += 1
    return total / count if count > 0 else NAN


def write(row: Row, floats: Table, index: int, slot: int, settings: Row) -> None:
    """Write an instrument's own columns, the dispersion of the set apart."""
    first, lead = settings[COLUMN_AT], settings[LEAD]
    for column in range(COLUMNS):
        row[first + column] = NAN
    row[first + VOLUME_OTHERS] = volume_of_others(floats, index)
    moved = floats[index][VOLATILITY] > 0.0
    if moved:
        row[first + RANK_1] = rank(floats, index, SCALED_1)
        row[first + RANK_16] = rank(floats, index, SCALED_16)
    if floats[lead][VOLATILITY] > 0.0:
        write_lags(row, first, floats[lead], slot)
        if moved:
            write_pair(row, first, floats[index], floats[lead], slot, index == lead)


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
    *(first_slot, carried, slide, return_at, log_return, push, advance),
    *(write_pair, write_lags, dispersion, rank, volume_of_others, write, step),
)
SOURCES = (kernels,)
