"""The path inside the bar, from its 1-minute bars.

Realised variance sums the squares of the minutes' log returns, the first of them from the bar's
open; the part of the minutes that rose and of those that fell are its semivariances
(Barndorff-Nielsen, Kinnebrock and Shephard, 2010). All minutes of the bar must be known at the
bar's stamp: with one missing the row is NaN, not a number about another stretch of time. Nothing
but the last bar is looked at, and the volatility of the base table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from catalog.errors import ConfigError
from catalog.timestamps import interval_name
from research.feature_table import Feature
from research.groups.registry import Input, minute_input
from research.kernel_tools import Row, Table
from research.kernels import NAN, VOLATILITY_20, VOLATILITY_RATIO

NAME = "path"

MINUTE_NS = 60_000_000_000

# Layout of an instrument's floats: the bar that its minutes are filling.
CLOSE, RISES, FALLS, VOLUME, LATE_VOLUME, HIGH, LOW, HIGH_AT, LOW_AT = range(9)
FLOATS = 9

# Layout of the ints: the bar's stamp, how many of its minutes are there without a gap, and the
# stamp of the next of them.
RUN_START, LAST_BAR, CURSOR, BAR_TS, MINUTES, NEXT_TS = range(6)
INTS = 6

# Layout of the settings.
FIRST_COLUMN, INTERVAL_MINUTES = range(2)

VARIANCE, UP_SEMIVARIANCE, DOWN_SEMIVARIANCE, LATE_SHARE, HIGH_PLACE, LOW_PLACE = range(6)
COLUMNS = 6


def features(options: Any) -> tuple[Feature, ...]:
    """Return the rows of the feature table."""
    rows = (
        ("path_variance", "vol ** 2", "sum of the squared 1-minute log returns of the last bar"),
        ("path_up_semivariance", "vol ** 2", "the part of it that rising minutes make"),
        ("path_down_semivariance", "vol ** 2", "the part of it that falling minutes make"),
        ("path_late_volume", "fraction", "volume of the last fifth of the bar, of the bar's"),
        ("path_high_at", "fraction", "where in the bar the high came first: 0 its open, 1 its end"),
        ("path_low_at", "fraction", "where in the bar the low came first: 0 its open, 1 its end"),
    )
    return tuple(
        Feature(name, ("minutes",), 97, "observed", unit, description)
        for name, unit, description in rows
    )


def settings(instruments: Sequence[str], interval_ns: int, options: Any) -> list[int]:
    """Return the settings: the first column, which the driver fills in, and minutes in a bar.

    Raises
    ------
    ConfigError
        If a bar cannot be cut into fifths of whole minutes.
    """
    minutes, rest = divmod(interval_ns, MINUTE_NS)
    if rest or minutes % 5:
        raise ConfigError(
            f"features.path must have base bars of a multiple of 5m, were "
            f"{interval_name(interval_ns)}; set features.path: false or data.interval: 15m"
        )
    return [0, minutes]


def inputs(instruments: Sequence[str], options: Any) -> tuple[Input, ...]:
    """Return what the group listens to beside bars: each instrument's 1-minute bars."""
    return tuple((minute_input(name), row) for row, name in enumerate(instruments))


def take_run(
    record_ts: Row,
    record_columns: Table,
    first: int,
    end: int,
    row: int,
    floats: Table,
    ints: Table,
    settings: Row,
) -> None:
    """Take in the minutes (open, high, low, close, volume) from `first` to before `end`.

    See `research.groups.registry.TakeRun`. What changes with every minute is kept in locals: in
    registers when it is compiled, and without look-ups when it is not.
    """
    f, k = floats[row], ints[row]
    minutes = settings[INTERVAL_MINUTES]
    interval = minutes * MINUTE_NS
    late = (4 * minutes + 4) // 5  # the first minute of the last fifth
    bar_ts, next_ts, place = k[BAR_TS], k[NEXT_TS], k[MINUTES]
    before, rises, falls = f[CLOSE], f[RISES], f[FALLS]
    volume, late_volume = f[VOLUME], f[LATE_VOLUME]
    top, bottom, top_at, bottom_at = f[HIGH], f[LOW], f[HIGH_AT], f[LOW_AT]
    opens, highs, lows = record_columns[0], record_columns[1], record_columns[2]
    closes, volumes = record_columns[3], record_columns[4]
    for at in range(first, end):
        ts = record_ts[at]
        if ts > bar_ts:
            bar_ts = -(-ts // interval) * interval
            next_ts = bar_ts - interval + MINUTE_NS
            place = 0
            before = top = bottom = opens[at]
            rises = falls = volume = late_volume = top_at = bottom_at = 0.0
        if ts == next_ts:  # else one before it is missing, or it is there already
            # A minute counts with its middle; that the bar's open is an extreme is place 0.
            middle = place + 0.5
            high, low, close, traded = highs[at], lows[at], closes[at], volumes[at]
            change = math.log(close / before)
            # Selections rather than branches, which a processor cannot foresee.
            rise, fall = max(change, 0.0), min(change, 0.0)
            rises += rise * rise
            falls += fall * fall
            before = close
            volume += traded
            late_volume += traded if place >= late else 0.0
            top_at = middle if high > top else top_at
            bottom_at = middle if low < bottom else bottom_at
            top, bottom = max(high, top), min(low, bottom)
            place += 1
            next_ts = ts + MINUTE_NS
    k[BAR_TS], k[NEXT_TS], k[MINUTES] = bar_ts, next_ts, place
    f[CLOSE], f[RISES], f[FALLS] = before, rises, falls
    f[VOLUME], f[LATE_VOLUME] = volume, late_volume
    f[HIGH], f[LOW], f[HIGH_AT], f[LOW_AT] = top, bottom, top_at, bottom_at


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
    """Write the columns of one slot; see `research.groups.registry.Group`."""
    for index in range(len(present)):
        if present[index] and valid[at[index]]:
            row, f, k = rows[at[index]], floats[index], ints[index]
            to = settings[FIRST_COLUMN]
            for column in range(to, to + COLUMNS):
                row[column] = NAN
            is_whole = k[MINUTES] == settings[INTERVAL_MINUTES]
            if is_whole and k[BAR_TS] == slot * interval_ns:
                if row[VOLATILITY_RATIO] > 0.0:
                    volatility = row[VOLATILITY_20] / row[VOLATILITY_RATIO]
                    scale = 1.0 / (volatility * volatility)
                    row[to + VARIANCE] = (f[RISES] + f[FALLS]) * scale
                    row[to + UP_SEMIVARIANCE] = f[RISES] * scale
                    row[to + DOWN_SEMIVARIANCE] = f[FALLS] * scale
                if f[VOLUME] > 0.0:
                    row[to + LATE_SHARE] = f[LATE_VOLUME] / f[VOLUME]
                row[to + HIGH_PLACE] = f[HIGH_AT] / settings[INTERVAL_MINUTES]
                row[to + LOW_PLACE] = f[LOW_AT] / settings[INTERVAL_MINUTES]


HELPERS = (take_run, step)
SOURCES: tuple[ModuleType, ...] = ()
