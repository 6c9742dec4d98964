"""Slow series: on-chain activity, implied volatility, fear and greed, news, the course of funding.

Every record counts from its `ts_init` on and none before, so that the last known value is that of
an as-of join. What is derived from records is worked out when one arrives; a bar only reads it,
with the age of the last record in bars. A value whose record is too old is NaN, its age goes on
counting for `AGE_NS`. Nothing remembers longer than `HISTORY_NS`: a stream that is told the
records of that long before its first bar equals a run over everything.

A record that is older than the last of its series, or repeats it, changes nothing. Headlines
repeat each other in earnest: one whose novelty is exactly 0 was there before and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

from research import novelty
from research.feature_config import FeatureConfig
from research.feature_table import Feature
from research.groups import rings
from research.groups.registry import Input, funding_input
from research.groups.rings import (
    EXTRAS,
    LAST,
    MASK,
    RING_FLOATS,
    RING_INTS,
    STAMPS,
    VALUES,
    append,
    change,
    count_since,
    last_stamp,
    last_value,
    log_or_nan,
    mean,
    zscore,
)
from research.kernel_tools import NEVER, Row, Table
from research.kernels import NAN, VOLATILITY_20, VOLATILITY_RATIO

NAME = "slow"

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
AGE_NS = 30 * DAY_NS  # ages count no further
WINDOW_NS = 30 * DAY_NS  # of on-chain z-scores
DAILY_EXPIRES_NS = 3 * DAY_NS
HISTORY_NS = WINDOW_NS + DAILY_EXPIRES_NS + 2 * DAY_NS
"""How far before its first bar a stream must know the slow series."""
# A daily series does not come at the same minute every day: half a day is forgiven.
ONE_DAY_NS, SEVEN_DAYS_NS = DAY_NS // 2, 7 * DAY_NS - DAY_NS // 2
DAILY_SLACK_NS = 3 * DAY_NS
LEAST_RECORDS = 15  # fewer have no z-score
HOURLY_EXPIRES_NS = 12 * HOUR_NS
HOURLY_SLACK_NS = 6 * HOUR_NS
PAIRED_NS = 6 * HOUR_NS  # in- and outflow of one day lie no further apart
FUNDING_EXPIRES_NS = 16 * HOUR_NS
FUNDING_WINDOW_NS = 3 * DAY_NS
FUNDING_HISTORY_NS = FUNDING_WINDOW_NS + DAY_NS
"""The same for the settled rates of funding."""
FUNDING_GRID_NS = 8 * HOUR_NS
NEWS_WINDOW_NS = DAY_NS
NEWS_SILENT_NS = 3 * DAY_NS  # a source that says nothing for so long is taken for dead
NEWS_DECAY_NS = 6 * HOUR_NS / math.log(2.0)  # half of the weight is gone after 6 hours
YEAR_NS = 365.0 * DAY_NS

METRICS = ("AdrActCnt", "FlowInExUSD", "FlowOutExUSD", "CapMVRVCur")
"""The on-chain metrics that are looked at, in the order of their rows of the state."""
ADDRESSES, INFLOW, OUTFLOW, MVRV = range(4)

# Layout of a row's floats before the ring: what was worked out when the last record came.
LEVEL, CHANGE_1, CHANGE_7, ZSCORE, NET_ZSCORE = range(5)
SCORE, COUNT, NOVELTY, DISAGREEMENT = range(4)
RATE_CHANGE, RATE_MEAN = range(2)
FLOATS = RING_FLOATS
# And of its ints: when a headline leaves the window.
LEAVES = 4
INTS = RING_INTS

# Layout of the settings; NEVER for what is off. Rows are of the state, the others columns
# behind the first.
FIRST, FUNDING, SHARED, END = range(4)
ONCHAIN, ONCHAIN_ROW, DVOL, DVOL_ROW, DVOL_COUNT = range(4, 9)
FEAR, FEAR_ROW, NEWS, NEWS_ROW = range(9, 13)
SETTINGS = 13

_FUNDING_COLUMNS = (
    ("funding_change", "bps", "the last settled rate less the one before, NaN once 16 hours old"),
    ("funding_mean", "bps", "mean of the rates settled within 3 days up to the last"),
    ("funding_until", "8 hours", "time to the next settlement on the grid of 8 hours"),
)
_ONCHAIN_COLUMNS = (
    ("onchain_addresses_change_1", "log ratio", "active addresses against those of a day before"),
    ("onchain_addresses_change_7", "log ratio", "active addresses against those of a week before"),
    ("onchain_addresses_zscore", "standard deviation", "log active addresses, 30 days"),
    ("onchain_addresses_age", "bars", "time since active addresses became known"),
    ("onchain_inflow_zscore", "standard deviation", "log USD sent to exchanges, 30 days"),
    ("onchain_outflow_zscore", "standard deviation", "log USD taken from exchanges, 30 days"),
    ("onchain_netflow", "fraction", "what exchanges gained, of all that came and went"),
    ("onchain_netflow_zscore", "standard deviation", "the same against its last 30 days"),
    ("onchain_flows_age", "bars", "time since what was taken from exchanges became known"),
    ("onchain_mvrv", "log ratio", "market value by realised value"),
    ("onchain_mvrv_change_7", "log ratio", "the same against that of a week before"),
    ("onchain_mvrv_age", "bars", "time since it became known"),
)
_DVOL_COLUMNS = (
    ("level", "log fraction per root year", "implied volatility, NaN once 12 hours old"),
    ("change_1", "log ratio", "implied volatility against that of a day before"),
    ("term", "log ratio", "implied volatility by the instrument's own of the last 96 bars"),
    ("age", "bars", "time since the level became known"),
)
_FEAR_COLUMNS = (
    ("fear_greed_level", "fraction", "0 extreme fear, 1 extreme greed, NaN once 3 days old"),
    ("fear_greed_change_7", "fraction", "the level against that of a week before"),
    ("fear_greed_age", "bars", "time since the level became known"),
)
_NEWS_COLUMNS = (
    ("news_score", "score", "mean score of 24 hours, half of its weight gone in 6; -1 to 1"),
    ("news_count", "headlines", "headlines of 24 hours, NaN once the source is silent for 3 days"),
    ("news_novelty", "fraction", "mean novelty of 24 hours, decayed as the score is"),
    ("news_disagreement", "score", "standard deviation of the scores, decayed alike"),
    ("news_age", "bars", "time since the last headline"),
)

DVOL_COLUMNS = len(_DVOL_COLUMNS)


def features(options: FeatureConfig) -> tuple[Feature, ...]:
    """Return the rows of the feature table for what the configuration switches on."""
    rows: list[tuple[str, str, str, str]] = []
    if options.funding_terms:
        rows += [(*row, "funding") for row in _FUNDING_COLUMNS]
    if options.onchain is not None:
        rows += [(*row, options.onchain) for row in _ONCHAIN_COLUMNS]
    for series in options.dvol:
        rows += [
            (f"dvol_{_short(series)}_{name}", unit, description, series)
            for name, unit, description in _DVOL_COLUMNS
        ]
    if options.fear_greed is not None:
        rows += [(*row, options.fear_greed) for row in _FEAR_COLUMNS]
    if options.news:
        rows += [(*row, " ".join(options.news)) for row in _NEWS_COLUMNS]
    return tuple(
        Feature(
            name=name,
            inputs=("ts_init",) if name == "funding_until" else tuple(source.split()),
            warmup_bars=97 if name.endswith("_term") else 0,
            role="known_ahead" if name == "funding_until" else "observed",
            unit=unit,
            description=description,
        )
        for name, unit, description, source in rows
    )


def _short(series: str) -> str:
    return series.rsplit(".", 1)[-1]


def settings(instruments: Sequence[str], interval_ns: int, options: FeatureConfig) -> list[int]:
    """Return where each section's columns begin, and in which rows its series are kept."""
    result = [NEVER] * SETTINGS
    column, row = 0, 0
    if options.funding_terms:
        result[FUNDING] = 0
        column, row = len(_FUNDING_COLUMNS), len(instruments)
    result[SHARED] = column
    if options.onchain is not None:
        result[ONCHAIN], result[ONCHAIN_ROW] = column, row
        column, row = column + len(_ONCHAIN_COLUMNS), row + len(METRICS)
    result[DVOL_COUNT] = len(options.dvol)
    if options.dvol:
        result[DVOL], result[DVOL_ROW] = column, row
        column, row = column + len(_DVOL_COLUMNS) * len(options.dvol), row + len(options.dvol)
    if options.fear_greed is not None:
        result[FEAR], result[FEAR_ROW] = column, row
        column, row = column + len(_FEAR_COLUMNS), row + 1
    if options.news:
        result[NEWS], result[NEWS_ROW] = column, row
        column += len(_NEWS_COLUMNS)
    result[END] = column
    return result


def inputs(instruments: Sequence[str], options: FeatureConfig) -> tuple[Input, ...]:
    """Return the names of the series that are listened to, with the rows of `settings`."""
    rows = [funding_input(name) for name in instruments] if options.funding_terms else []
    if options.onchain is not None:
        rows += [f"onchain.{options.onchain}.{metric}" for metric in METRICS]
    rows += [f"index.{series}" for series in options.dvol]
    rows += [f"index.{options.fear_greed}"] if options.fear_greed is not None else []
    news = [(f"news.{series}", len(rows)) for series in options.news]
    return (*((name, row) for row, name in enumerate(rows)), *news)


def take(ts: int, row: int, values: Row, floats: Table, ints: Table, settings: Row) -> None:
    """Take in a record (value, extra) of the series that is kept in a row of the state."""
    f, k = floats[row], ints[row]
    value: float = values[0]
    if ts < last_stamp(k):
        return
    if settings[NEWS_ROW] == row:
        if values[1] != 0.0:
            append(f, k, ts, value, values[1])
            k[LEAVES] = ts  # what was worked out is out of date
    elif is_among(row, settings[ONCHAIN_ROW], MVRV + 1):
        value = log_or_nan(value)
        # A vendor that was behind publishes several days at once: only repetitions are left out.
        if ts != last_stamp(k) or value != last_value(f, k):
            append(f, k, ts, value, NAN)
            take_onchain(floats, ints, settings[ONCHAIN_ROW], row - settings[ONCHAIN_ROW])
    elif is_among(row, settings[DVOL_ROW], settings[DVOL_COUNT]):
        replace_or_append(f, k, ts, log_or_nan(value / 100.0))
        f[LEVEL] = last_value(f, k)
        f[CHANGE_1] = change(f, k, DAY_NS, HOURLY_SLACK_NS)
    elif row == settings[FEAR_ROW]:
        replace_or_append(f, k, ts, value)
        f[LEVEL] = value / 100.0
        f[CHANGE_7] = change(f, k, SEVEN_DAYS_NS, DAILY_SLACK_NS) / 100.0
    else:
        replace_or_append(f, k, ts, value)
        f[RATE_CHANGE] = 10_000.0 * change(f, k, 1, FUNDING_EXPIRES_NS)
        f[RATE_MEAN] = 10_000.0 * mean(f, k, VALUES, count_since(k, FUNDING_WINDOW_NS))


def is_among(row: int, first: int, count: int) -> bool:
    """Return whether a row is one of `count` from `first` on, which is NEVER for a section off."""
    return first != NEVER and first <= row and row < first + count


def replace_or_append(f: Row, k: Row, ts: int, value: float) -> None:
    """Take in a record of which the later one counts if two have the same stamp."""
    if ts == last_stamp(k):
        k[LAST] -= 1
    append(f, k, ts, value, NAN)


def take_onchain(floats: Table, ints: Table, first: int, metric: int) -> None:
    """Work out what the newest record of an on-chain metric says."""
    f, k = floats[first + metric], ints[first + metric]
    count = count_since(k, WINDOW_NS)
    f[LEVEL] = last_value(f, k)
    f[CHANGE_1] = change(f, k, ONE_DAY_NS, DAILY_SLACK_NS)
    f[CHANGE_7] = change(f, k, SEVEN_DAYS_NS, DAILY_SLACK_NS)
    f[ZSCORE] = zscore(f, k, VALUES, count) if count >= LEAST_RECORDS else NAN
    if metric in (INFLOW, OUTFLOW):
        coming, kc = floats[first + INFLOW], ints[first + INFLOW]
        going, kg = floats[first + OUTFLOW], ints[first + OUTFLOW]
        apart = last_stamp(kc) - last_stamp(kg)
        if kc[LAST] != NEVER and kg[LAST] != NEVER and -PAIRED_NS <= apart <= PAIRED_NS:
            ratio = math.exp(last_value(coming, kc) - last_value(going, kg))
            going[EXTRAS + (kg[LAST] & MASK)] = (ratio - 1.0) / (ratio + 1.0)
            count = count_since(kg, WINDOW_NS)
            going[NET_ZSCORE] = zscore(going, kg, EXTRAS, count) if count >= LEAST_RECORDS else NAN
        elif metric == OUTFLOW:
            going[NET_ZSCORE] = NAN


def weigh_news(f: Row, k: Row, now: int) -> None:
    """Work out the columns of the headlines within the window up to `now`."""
    newest = last_stamp(k)
    oldest = max(k[LAST] - MASK, 0)
    scored = known = total = squares = novel = 0.0
    count, scores, reference = 0, 0, 0.0
    k[LEAVES] = NEVER
    for number in range(k[LAST], oldest - 1, -1):
        stamp = k[STAMPS + (number & MASK)]
        if stamp <= now - NEWS_WINDOW_NS:
            break
        k[LEAVES] = stamp + NEWS_WINDOW_NS
        count += 1
        # Against the newest headline, not against now: all weights decay alike.
        weight = math.exp((stamp - newest) / NEWS_DECAY_NS)
        value, extra = f[VALUES + (number & MASK)], f[EXTRAS + (number & MASK)]
        if value == value:
            if scores == 0:
                reference = value
            scores += 1
            scored += weight
            total += weight * (value - reference)
            squares += weight * (value - reference) * (value - reference)
        if extra == extra:
            known += weight
            novel += weight * extra
    f[COUNT] = float(count)
    f[SCORE] = f[DISAGREEMENT] = NAN
    if scores > 0:
        average = total / scored
        f[SCORE] = reference + average
        if scores > 1:
            f[DISAGREEMENT] = math.sqrt(max(squares / scored - average * average, 0.0))
    f[NOVELTY] = novel / known if known > 0.0 else NAN


def age_or_nan(k: Row, now: int, interval_ns: int) -> float:
    """Return the bars since the last record, NaN where there is none within `AGE_NS`."""
    if k[LAST] == NEVER or now - last_stamp(k) > AGE_NS:
        return NAN
    return (now - last_stamp(k)) / interval_ns


def is_fresh(k: Row, now: int, expires_ns: int) -> bool:
    """Return whether there is a last record that is younger than `expires_ns`."""
    return k[LAST] != NEVER and now - last_stamp(k) < expires_ns


def write_onchain(row: Row, at: int, floats: Table, ints: Table, first: int, now: int) -> None:
    """Write the on-chain columns without their ages."""
    f, k = floats[first + ADDRESSES], ints[first + ADDRESSES]
    if is_fresh(k, now, DAILY_EXPIRES_NS):
        row[at], row[at + 1], row[at + 2] = f[CHANGE_1], f[CHANGE_7], f[ZSCORE]
    if is_fresh(ints[first + INFLOW], now, DAILY_EXPIRES_NS):
        row[at + 4] = floats[first + INFLOW][ZSCORE]
    f, k = floats[first + OUTFLOW], ints[first + OUTFLOW]
    if is_fresh(k, now, DAILY_EXPIRES_NS):
        row[at + 5], row[at + 7] = f[ZSCORE], f[NET_ZSCORE]
        row[at + 6] = f[EXTRAS + (k[LAST] & MASK)]
    f, k = floats[first + MVRV], ints[first + MVRV]
    if is_fresh(k, now, DAILY_EXPIRES_NS):
        row[at + 9], row[at + 10] = f[LEVEL], f[CHANGE_7]


def write_shared(
    row: Row, floats: Table, ints: Table, settings: Row, now: int, interval_ns: int
) -> None:
    """Write the columns which all instruments have in common at a time."""
    first = settings[FIRST]
    for column in range(first + settings[SHARED], first + settings[END]):
        row[column] = NAN
    if settings[ONCHAIN] != NEVER:
        at, kept = first + settings[ONCHAIN], settings[ONCHAIN_ROW]
        write_onchain(row, at, floats, ints, kept, now)
        row[at + 3] = age_or_nan(ints[kept + ADDRESSES], now, interval_ns)
        row[at + 8] = age_or_nan(ints[kept + OUTFLOW], now, interval_ns)
        row[at + 11] = age_or_nan(ints[kept + MVRV], now, interval_ns)
    for place in range(settings[DVOL_COUNT]):
        at, kept = first + settings[DVOL] + DVOL_COLUMNS * place, settings[DVOL_ROW] + place
        if is_fresh(ints[kept], now, HOURLY_EXPIRES_NS):
            row[at], row[at + 1] = floats[kept][LEVEL], floats[kept][CHANGE_1]
        row[at + 3] = age_or_nan(ints[kept], now, interval_ns)
    if settings[FEAR] != NEVER:
        at, kept = first + settings[FEAR], settings[FEAR_ROW]
        if is_fresh(ints[kept], now, DAILY_EXPIRES_NS):
            row[at], row[at + 1] = floats[kept][LEVEL], floats[kept][CHANGE_7]
        row[at + 2] = age_or_nan(ints[kept], now, interval_ns)
    if settings[NEWS] != NEVER:
        write_news(row, first + settings[NEWS], floats, ints, settings[NEWS_ROW], now)
        row[first + settings[NEWS] + 4] = age_or_nan(ints[settings[NEWS_ROW]], now, interval_ns)


def write_news(row: Row, at: int, floats: Table, ints: Table, kept: int, now: int) -> None:
    """Write the news columns without their age."""
    f, k = floats[kept], ints[kept]
    if k[LEAVES] != NEVER and k[LEAVES] <= now:
        weigh_news(f, k, now)
    if is_fresh(k, now, NEWS_SILENT_NS):
        row[at], row[at + 1] = f[SCORE], f[COUNT]
        row[at + 2], row[at + 3] = f[NOVELTY], f[DISAGREEMENT]


def write_own(row: Row, f: Row, k: Row, settings: Row, now: int, half_log_bars: float) -> None:
    """Write the columns that are an instrument's own: the course of its funding, the terms."""
    first = settings[FIRST]
    if settings[FUNDING] != NEVER:
        at = first + settings[FUNDING]
        row[at] = row[at + 1] = NAN
        if is_fresh(k, now, FUNDING_EXPIRES_NS):
            row[at], row[at + 1] = f[RATE_CHANGE], f[RATE_MEAN]
        row[at + 2] = 1.0 - (now % FUNDING_GRID_NS) / FUNDING_GRID_NS
    if settings[DVOL_COUNT] > 0:
        own = NAN
        if row[VOLATILITY_RATIO] > 0.0:
            own = math.log(row[VOLATILITY_20] / row[VOLATILITY_RATIO]) + half_log_bars
        for place in range(settings[DVOL_COUNT]):
            at = first + settings[DVOL] + DVOL_COLUMNS * place
            row[at + 2] = row[at] - own


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
    now = slot * interval_ns
    half_log_bars = 0.5 * math.log(YEAR_NS / interval_ns)
    written = NEVER
    for index in range(len(present)):
        if present[index] and valid[at[index]]:
            row = rows[at[index]]
            if written == NEVER:
                write_shared(row, floats, ints, settings, now, interval_ns)
                written = index
            else:
                other, first = rows[at[written]], settings[FIRST]
                for column in range(first + settings[SHARED], first + settings[END]):
                    row[column] = other[column]
            write_own(row, floats[index], ints[index], settings, now, half_log_bars)


HELPERS = (
    *(*rings.HELPERS, is_among, replace_or_append, take_onchain, take, weigh_news, age_or_nan),
    *(is_fresh, write_onchain, write_news, write_shared, write_own, step),
)
SOURCES: tuple[ModuleType, ...] = (rings, novelty)
