"""What a batch must satisfy before anything of its source is written.

Shuffled rows are sorted and identical repetitions dropped, and the report says so. Everything
else that is wrong refuses the whole source: a half-taken file is worse than a refused one,
because nobody would look at it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from catalog.encoding import (
    LARGEST_PRICE,
    LARGEST_QUANTITY,
    Records,
    decimals_needed,
    stored_doubles,
)
from catalog.errors import ConfigError, DataError
from catalog.instruments import InstrumentSpec, is_perpetual, parse_bar_type
from catalog.records import COLUMNS, FIRST_VINTAGE, AnyArray, Batch, Column, Kind
from catalog.timestamps import NS_PER_SECOND, format_time, interval_ns

type Mask = NDArray[np.bool_]

_SAFE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_SHOWN = 5
_EARLIEST = 0
_LATEST = 4_102_444_800 * NS_PER_SECOND
"""1970 to 2100: a stamp outside it was read in the wrong unit."""
_MOST_FUNDING_DECIMALS = 28
_AUTOMATIC_PREFIX = "restated-"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, where it is broken, and the columns to show when it is."""

    text: str
    broken: Callable[[Records], Mask]
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """A batch's records, sorted by (`ts_event`, key), unique, of canonical types.

    Parameters
    ----------
    batch : Batch
        Where they come from.
    records : Records
        The records.
    offered : int
        How many the source held.
    duplicates : int
        How many repeated another one exactly and were dropped.
    decimals : tuple of int or None
        Decimals that prices and sizes need; bars only.
    notes : tuple of str
        What was put right, and what the importer had to say.
    """

    batch: Batch
    records: Records
    offered: int
    duplicates: int
    decimals: tuple[int, int] | None
    notes: tuple[str, ...]


def check_batch(batch: Batch, now: int, spec: InstrumentSpec | None = None) -> CheckedBatch:
    """Return the batch's records in order, or refuse it.

    Parameters
    ----------
    batch : Batch
        What an importer handed over.
    now : int
        The present, UTC nanoseconds: nothing may be known later than this.
    spec : InstrumentSpec or None
        The instrument's known precisions; bars only.

    Raises
    ------
    DataError
        With the rule that is broken, how often, and the first places.
    """
    _check_names(batch)
    records = _canonical(batch)
    lines = batch.lines
    if lines is not None and len(lines) != len(records["ts_init"]):
        raise DataError(
            f"lines must be as many as records, was {len(lines)} for {len(records['ts_init'])}"
        )
    for rule in _rules(batch, now):
        _enforce(rule, records, lines)
    decimals = _decimals(batch, records, lines, spec)
    if decimals is not None:
        records = _as_stored(records, decimals)
    offered = len(records["ts_init"])
    records, duplicates, notes = _in_order(batch.kind, records, lines)
    return CheckedBatch(batch, records, offered, duplicates, decimals, (*notes, *batch.notes))


def _check_names(batch: Batch) -> None:
    if batch.kind not in COLUMNS:
        raise DataError(f"kind must be one of {', '.join(COLUMNS)}, was {batch.kind!r}")
    for name, value in (("series", batch.series), ("vintage", batch.vintage)):
        if (value or name == "series") and not _SAFE_NAME.match(value):
            raise DataError(
                f"{name} must consist of letters, digits, '-', '_' and '.', was {value!r}"
            )
    if batch.vintage.startswith(_AUTOMATIC_PREFIX):
        raise DataError(
            f"vintage must not begin with {_AUTOMATIC_PREFIX!r}, which names the catalog's own "
            f"vintages, was {batch.vintage!r}"
        )
    if batch.known_at is not None and batch.vintage == FIRST_VINTAGE:
        raise DataError("known_at must come with a vintage's name, was given without one")
    if PurePath(batch.source).is_absolute() or not batch.source:
        raise DataError(
            f"source must be a file's name, not empty and not absolute, was {batch.source!r}"
        )
    if batch.kind == "funding" and not is_perpetual(batch.series):
        raise DataError(
            f"series of funding must be the id of a perpetual, such as BTCUSDT-PERP.BINANCE, was "
            f"{batch.series!r}: nothing else pays funding"
        )
    if batch.kind in ("bars", "bar_flow"):
        try:
            parse_bar_type(batch.series)
        except ConfigError as error:
            raise DataError(str(error)) from error


def _canonical(batch: Batch) -> Records:
    """Return the columns with the types that they must have."""
    wanted = (Column("ts_event", "int", "ns"), Column("ts_init", "int", "ns"), *COLUMNS[batch.kind])
    names = {column.name for column in wanted}
    if missing := sorted(names - set(batch.columns)):
        raise DataError(
            f"{batch.kind} must have the columns {', '.join(sorted(names))}; "
            f"missing: {', '.join(missing)}"
        )
    if unknown := sorted(set(batch.columns) - names):
        raise DataError(f"{batch.kind} has no columns {', '.join(unknown)}; leave them out")
    records = {column.name: _typed(column, batch.columns[column.name]) for column in wanted}
    lengths = {name: len(values) for name, values in records.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"columns must be equally long, was {lengths}")
    if not lengths["ts_init"]:
        raise DataError("a batch must hold at least one record, was empty")
    return records


_NUMPY_KINDS = {"float": "fiu", "int": "iu", "text": "OUT"}
_NUMPY_TYPES = {"float": np.float64, "int": np.int64}


def _typed(column: Column, values: AnyArray) -> AnyArray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in _NUMPY_KINDS[column.dtype]:
        raise DataError(
            f"column {column.name} must be one-dimensional of type {column.dtype}, was "
            f"{array.ndim}-dimensional of type {array.dtype}"
        )
    if column.dtype != "text":
        return array.astype(_NUMPY_TYPES[column.dtype])
    texts = array.astype(object)
    for row, text in enumerate(texts.tolist()):
        if not isinstance(text, str) or not text or "\0" in text:
            raise DataError(
                f"column {column.name} must hold texts that are not empty and contain no zero "
                f"byte, was {text!r} in record {row}"
            )
    return texts


def _enforce(rule: Rule, records: Records, lines: NDArray[np.int64] | None) -> None:
    broken = np.flatnonzero(rule.broken(records))
    if len(broken):
        raise DataError(_complaint(rule.text, broken, rule.shown, records, lines))


def _complaint(
    text: str,
    rows: NDArray[np.int64],
    shown: tuple[str, ...],
    records: Records,
    lines: NDArray[np.int64] | None,
) -> str:
    places = []
    for row in rows[:_SHOWN].tolist():
        place = f"record {row}" if lines is None else f"line {lines[row]}"
        values = ", ".join(f"{name} {_shown(name, records[name][row])}" for name in shown)
        places.append(f"{place} ({values})")
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"{text}; was not in {len(rows)} of {len(records['ts_init'])} records: " + (
        "; ".join(places) + more
    )


def _shown(name: str, value: object) -> str:
    if name.startswith("ts_"):
        moment = int(value)  # type: ignore[call-overload]
        return format_time(moment) if _EARLIEST <= moment < _LATEST else f"{moment} ns"
    return repr(value.item()) if isinstance(value, np.generic) else repr(value)


def _finite(names: tuple[str, ...]) -> Rule:
    def broken(records: Records) -> Mask:
        bad = [~np.isfinite(records[name]) for name in names]
        return np.asarray(np.logical_or.reduce(bad), dtype=np.bool_)

    return Rule(f"{', '.join(names)} must be finite numbers", broken, ("ts_init", *names))


def _within(name: str, low: float, high: float, words: str) -> Rule:
    def broken(records: Records) -> Mask:
        values = records[name]
        return np.asarray((values < low) | (values > high))

    return Rule(f"{name} must be {words}", broken, ("ts_init", name))


_CANDLE = (
    Rule("high must not be below low", lambda r: r["high"] < r["low"], ("ts_init", "high", "low")),
    Rule(
        "open and close must lie between low and high",
        lambda r: (
            (np.maximum(r["open"], r["close"]) > r["high"])
            | (np.minimum(r["open"], r["close"]) < r["low"])
        ),
        ("ts_init", "open", "high", "low", "close"),
    ),
)
_PRICES = ("open", "high", "low", "close")
_KIND_RULES: Mapping[Kind, tuple[Rule, ...]] = {
    "bars": (
        *(_within(name, 5e-324, LARGEST_PRICE, "a positive price") for name in _PRICES),
        *_CANDLE,
        _within("volume", 0.0, LARGEST_QUANTITY, "zero or a positive quantity"),
    ),
    "funding": (
        _within("rate", -1.0, 1.0, "a fraction of the notional from -1 to 1 (not per cent)"),
        Rule(
            f"rate must have at most {_MOST_FUNDING_DECIMALS} decimals",
            lambda r: (r["rate"] != 0) & (np.abs(r["rate"]) < 1e-11),
            ("ts_init", "rate"),
        ),
    ),
    "bar_flow": (
        _within("quote_volume", 0.0, np.inf, "zero or positive"),
        _within("trade_count", 0.0, np.inf, "zero or positive"),
        _within("taker_buy_volume", 0.0, np.inf, "zero or positive"),
        _within("taker_buy_quote_volume", 0.0, np.inf, "zero or positive"),
        Rule(
            "taker_buy_quote_volume must not exceed quote_volume",
            lambda r: r["taker_buy_quote_volume"] > r["quote_volume"] * (1 + 1e-9),
            ("ts_init", "taker_buy_quote_volume", "quote_volume"),
        ),
    ),
    "onchain": (),
    "index": _CANDLE,
    "news": (
        _within("score", -1.0, 1.0, "from -1 to 1, or NaN when not scored"),
        Rule(
            "ts_published must not be later than ts_init",
            lambda r: r["ts_published"] > r["ts_init"],
            ("ts_init", "ts_published", "headline"),
        ),
    ),
}


def _rules(batch: Batch, now: int) -> list[Rule]:
    """Return the rules in the order in which a person would look for the cause."""
    rules = [
        _within(name, _EARLIEST, _LATEST, "UTC nanoseconds between 1970 and 2100")
        for name in ("ts_event", "ts_init")
    ]
    rules.append(
        Rule(
            "ts_init must not be earlier than ts_event: nothing is known before it happens",
            lambda r: r["ts_init"] < r["ts_event"],
            ("ts_event", "ts_init"),
        )
    )
    rules.append(
        Rule(
            f"ts_init must not lie in the future (it is {format_time(now)})",
            lambda r: r["ts_init"] > now,
            ("ts_init",),
        )
    )
    if batch.kind in ("bars", "bar_flow"):
        rules += _grid_rules(parse_bar_type(batch.series)[1])
    floats = tuple(
        column.name
        for column in COLUMNS[batch.kind]
        if column.dtype == "float" and not column.nan_allowed
    )
    if floats:
        rules.append(_finite(floats))
    return [*rules, *_KIND_RULES[batch.kind]]


def _grid_rules(interval: str) -> list[Rule]:
    length = interval_ns(interval)
    return [
        Rule(
            "ts_event of a bar must be its close, as ts_init is",
            lambda r: r["ts_event"] != r["ts_init"],
            ("ts_event", "ts_init"),
        ),
        Rule(
            f"ts_init must lie on the grid of {interval} bars",
            lambda r: r["ts_init"] % length != 0,
            ("ts_init",),
        ),
    ]


def _decimals(
    batch: Batch,
    records: Records,
    lines: NDArray[np.int64] | None,
    spec: InstrumentSpec | None,
) -> tuple[int, int] | None:
    if batch.kind != "bars":
        return None
    price = spec.price_precision if spec else 0
    size = spec.size_precision if spec else 0
    for name in _PRICES:
        price, impossible = decimals_needed(records[name], price)
        _enforce(_exactly(name, impossible), records, lines)
    size, impossible = decimals_needed(records["volume"], size)
    _enforce(_exactly("volume", impossible), records, lines)
    return price, size


def _as_stored(records: Records, decimals: tuple[int, int]) -> Records:
    """Return bars with the doubles that reading them back will give, so that they compare equal."""
    stored = dict(records)
    for name in _PRICES:
        stored[name] = stored_doubles(records[name], decimals[0])
    stored["volume"] = stored_doubles(records["volume"], decimals[1])
    return stored


def _exactly(name: str, impossible: Mask) -> Rule:
    text = (
        f"{name} must be a decimal number of at most 16 decimals and 15 digits, as venues quote "
        f"(round it to the instrument's step first)"
    )
    return Rule(text, lambda _: impossible, ("ts_init", name))


def _in_order(
    kind: Kind, records: Records, lines: NDArray[np.int64] | None
) -> tuple[Records, int, tuple[str, ...]]:
    """Sort by time and key, drop identical repetitions, refuse contradicting ones."""
    notes = []
    backward = np.flatnonzero(np.diff(records["ts_init"]) < 0)
    # A feed that runs from new to old is in order, only in the other one.
    if len(backward) and not bool(np.all(np.diff(records["ts_init"]) <= 0)):
        place = "record" if lines is None else "line"
        first = int(backward[0]) + 1 if lines is None else int(lines[backward[0] + 1])
        notes.append(f"{len(backward)} records were out of order, first at {place} {first}: sorted")
    order = key_order(kind, records, records["ts_init"])
    ordered = take(records, order)
    repeated = same_key(kind, ordered)
    if not repeated.any():
        return ordered, 0, tuple(notes)
    first_of_key = np.flatnonzero(~repeated)[np.cumsum(~repeated) - 1]
    different = repeated & ~equal_content(kind, ordered, take(ordered, first_of_key))
    if different.any():
        rows = order[np.flatnonzero(different)]
        keys = tuple(column.name for column in COLUMNS[kind] if column.key)
        text = "records of the same time and key must agree"
        raise DataError(_complaint(text, rows, ("ts_event", *keys), records, lines))
    notes.append(f"{int(repeated.sum())} records repeated another one exactly: dropped")
    return take(ordered, ~repeated), int(repeated.sum()), tuple(notes)


def take(records: Records, rows: NDArray[np.int64] | Mask) -> Records:
    """Return some rows of all columns."""
    return {name: values[rows] for name, values in records.items()}


def joined(parts: list[Records]) -> Records:
    """Return the rows of several tables of one kind, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def key_order(kind: Kind, records: Records, tie: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stable order by (`ts_event`, key columns, `tie`)."""
    keys = [tie]
    names = [column.name for column in COLUMNS[kind] if column.key]
    keys += [ranks(records[name]) for name in reversed(names)]
    if not names and bool(np.all(np.diff(records["ts_event"]) > 0)):
        return np.arange(len(records["ts_event"]))
    return np.lexsort((*keys, records["ts_event"]))


def ranks(texts: AnyArray) -> NDArray[np.int64]:
    """Return each text's place in the sorted order of the distinct texts."""
    words = texts.tolist()
    place = {word: number for number, word in enumerate(sorted(set(words)))}
    return np.fromiter((place[word] for word in words), dtype=np.int64, count=len(words))


def same_key(kind: Kind, ordered: Records) -> Mask:
    """Return which rows of a sorted table have the key of the row before."""
    same = np.zeros(len(ordered["ts_event"]), dtype=np.bool_)
    equal = np.diff(ordered["ts_event"]) == 0
    for column in COLUMNS[kind]:
        if column.key:
            equal &= np.asarray(ordered[column.name][1:] == ordered[column.name][:-1], dtype=bool)
    same[1:] = equal
    return same


def equal_content(kind: Kind, left: Records, right: Records) -> Mask:
    """Return where two tables say the same; the stamp `ts_init` is not part of what is said.

    Numbers that differ by 2 units in the last place were printed by different programs, not
    restated: a fifth of the CapMVRVCur values in two downloads of Coin Metrics do.
    """
    equal = np.ones(len(left["ts_event"]), dtype=np.bool_)
    for column in COLUMNS[kind]:
        if column.key:
            continue
        one, other = left[column.name], right[column.name]
        same = np.asarray(one == other, dtype=np.bool_)
        if column.dtype == "float":
            same |= np.abs(one - other) <= 2 * np.spacing(np.abs(one))
        if column.nan_allowed:
            same |= np.isnan(one) & np.isnan(other)
        equal &= same
    return equal
