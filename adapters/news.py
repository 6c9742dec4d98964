"""Headlines from CSV files of three forms, each told by its columns.

- ``Date, Short Description, Accurate Sentiments``: summaries with a model's score in [-1, 1];
- ``published_at, first_seen, headline, …``: point in time, without a score;
- ``date; sentiment; source; subject; text; title; url``: several outlets, day-first dates, newest
  first, the score inside a printed Python dict.

A headline happens when its outlet publishes it (``ts_event = ts_published``). It is known at the
moment it was first seen, or at its publication where nobody recorded that, plus
`ImportOptions.scoring_delay_secs`. A column map may say that it could not be had earlier than some
time after its publication (`delay_secs`); scoring comes after that, never beside it. A stamp of
exactly 00:00:00 in a file that nobody watched is more often a date without a time than a midnight
(in the outlets' file it is the most frequent minute of all): such a headline counts as known at
the END of that day.

The first two forms do not say what a headline is about: a file whose name begins with ``bitcoin``
or ``btc`` is about ``btc``, any other about the whole market (``crypto``).

The scores are models' outputs, not truth. A headline without one has the score NaN.

A row that repeats time, outlet, asset and text of an earlier row is dropped, and counted in the
notes. A text that appears again at another time is kept: that it was published again is news, and
which of the two to use is for a feature to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters import checks
from adapters.checks import FloatColumn, IntColumn, Place
from adapters.options import ImportOptions
from adapters.sources import SourceFile, Text, TextTable, read_text
from catalog.records import Batch
from catalog.timestamps import NS_PER_DAY, format_time

MARKET_WIDE = "crypto"
"""Asset of a headline about no single coin."""
_SUBJECTS = {"bitcoin": "btc", "ethereum": "eth"}
_POLARITY = re.compile(
    r"\{'class': '(?:negative|neutral|positive)', 'polarity': (-?\d+(?:\.\d+)?(?:[eE]-?\d+)?), "
    r"'subjectivity': \d+(?:\.\d+)?\}"
)
_DAY_FIRST = "%d-%m-%Y %H:%M"


@dataclass(frozen=True, slots=True)
class Headlines:
    """Headlines of one file, row by row; all fields have the length ``n_rows``.

    Parameters
    ----------
    place : Place
        Where the rows are.
    published : (n_rows,) int64 array
        UTC nanoseconds.
    first_seen : (n_rows,) int64 array or None
        UTC nanoseconds; None where nobody recorded it.
    outlet, asset, text : tuple of str
        Who published it, what it is about, and the headline.
    score : (n_rows,) float64 array
        In [-1, 1], NaN where there is none.
    delay_ns : int
        How long after its publication a headline could be had, nanoseconds; 0 where the form of
        the file does not say.
    """

    place: Place
    published: IntColumn
    first_seen: IntColumn | None
    outlet: Text
    asset: Text
    text: Text
    score: FloatColumn
    delay_ns: int = 0


def matches(source: SourceFile) -> bool:
    """Return whether a file is one of the three known tables of headlines."""
    return source.format == "csv" and (
        source.has("Short Description")
        or source.has("headline", "first_seen")
        or source.has("headline", "published_at")
        or (source.delimiter == ";" and source.has("title", "text", "sentiment"))
    )


def read(source: SourceFile, options: ImportOptions) -> list[Batch]:
    """Read a CSV of headlines into one batch, sorted by when each was known.

    Parameters
    ----------
    source : SourceFile
        The file; its stem becomes the name of the series.
    options : ImportOptions
        Gives the scoring delay and the clock.

    Raises
    ------
    DataError
        If the file is damaged, lacks a column, or a row cannot be.
    """
    table = read_text(source)
    if source.has("Short Description"):
        form = _SCORED
    elif source.has("headline"):
        form = _SEEN
    else:
        form = _OUTLETS
    checks.require_columns(source.name, tuple(table.columns), form.columns)
    checks.require_rows(source.name, len(table))
    return [to_batch(source.stem, form.parse(source, table), options)]


def to_batch(series: str, headlines: Headlines, options: ImportOptions) -> Batch:
    """Return headlines as a batch: known times set, repeats dropped, sorted, counted.

    Raises
    ------
    DataError
        If a time lies in the future, a headline was seen before its publication, is empty, or a
        score is outside [-1, 1].
    """
    place, score = headlines.place, headlines.score
    checks.check_times(place, headlines.published, options.clock_ns(), "a publication")
    empty = np.fromiter((not text for text in headlines.text), np.bool_, len(score))
    place.refuse(empty, "a headline must have a text", lambda row: "empty")
    place.refuse(
        np.abs(score) > 1.0, "a score must be between -1 and 1", lambda row: f"{score[row]:g}"
    )
    known, notes = _known(headlines, options)
    known = checks.known_by_now(known, headlines.published, options.clock_ns())
    keys = list(
        zip(
            headlines.published.tolist(),
            headlines.outlet,
            headlines.asset,
            headlines.text,
            strict=True,
        )
    )
    kept = np.asarray(list({key: row for row, key in reversed(list(enumerate(keys)))}.values()))
    order = np.sort(kept)  # a repeat keeps its first row; the file's order breaks ties in time
    order = order[np.lexsort((headlines.published[order], known[order]))]
    dropped = len(keys) - len(order)
    again = len(order) - len({headlines.text[row] for row in order})
    if dropped:
        notes = (*notes, f"{dropped} exact repeats dropped")
    if again:
        notes = (*notes, f"{again} texts published again at another time kept")
    columns = {
        "ts_event": headlines.published[order],
        "ts_init": known[order],
        "source": _objects(headlines.outlet, order),
        "asset": _objects(headlines.asset, order),
        "headline": _objects(headlines.text, order),
        "score": score[order],
        "ts_published": headlines.published[order],
    }
    return Batch("news", series, columns, place.source, place.lines[order], notes=notes)


def _known(headlines: Headlines, options: ImportOptions) -> tuple[IntColumn, tuple[str, ...]]:
    published, seen, place = headlines.published, headlines.first_seen, headlines.place
    delay = headlines.delay_ns
    if seen is not None:
        place.refuse(
            seen < published,
            "first_seen must not be before the publication",
            lambda row: f"{format_time(int(seen[row]))} UTC",
        )
        checks.check_times(place, seen, options.clock_ns(), "a first sighting")
        return np.maximum(seen, published + delay) + options.scoring_delay_ns, ()
    midnight = published % NS_PER_DAY == 0
    ended = np.where(midnight, published + NS_PER_DAY, published)
    known = ended + delay + options.scoring_delay_ns
    count = int(np.count_nonzero(midnight))
    if count == 0:
        return known, ()
    note = f"{count} headlines stamped exactly 00:00 count as known at the end of that day"
    return known, (note,)


def _parse_scored(source: SourceFile, table: TextTable) -> Headlines:
    place = Place(table.source, table.lines)
    count = len(table)
    asset = "btc" if source.stem.lower().startswith(("bitcoin", "btc")) else MARKET_WIDE
    return Headlines(
        place,
        checks.times(place, "Date", table["Date"], "%Y-%m-%d %H:%M:%S"),
        None,
        (source.stem,) * count,
        (asset,) * count,
        _stripped(table["Short Description"]),
        checks.numbers(
            place, "Accurate Sentiments", table.columns["Accurate Sentiments"], empty=True
        ),
    )


def _parse_seen(source: SourceFile, table: TextTable) -> Headlines:
    place = Place(table.source, table.lines)
    asset = "btc" if source.stem.lower().startswith(("bitcoin", "btc")) else MARKET_WIDE
    return Headlines(
        place,
        checks.times(place, "published_at", table["published_at"]),
        checks.times(place, "first_seen", table["first_seen"]),
        _stripped(table["source"]),
        (asset,) * len(table),
        _stripped(table["headline"]),
        np.full(len(table), np.nan),
    )


def _parse_outlets(source: SourceFile, table: TextTable) -> Headlines:
    """Read the outlets' file; its dates are day-first, and a file that denies that is refused."""
    place = Place(table.source, table.lines)
    published = checks.times(place, "date", table["date"], _DAY_FIRST)
    titles, texts = _stripped(table["title"]), _stripped(table["text"])
    return Headlines(
        place,
        published,
        None,
        _stripped(table["source"]),
        tuple(_SUBJECTS.get(subject, MARKET_WIDE) for subject in _stripped(table["subject"])),
        tuple(title or text for title, text in zip(titles, texts, strict=True)),
        _polarity(place, table["sentiment"]),
    )


def _polarity(place: Place, printed: Text) -> FloatColumn:
    """Read the polarity out of printed dicts, without evaluating them."""
    found = [_POLARITY.fullmatch(text) for text in printed]
    bad = np.fromiter(
        (match is None and text != "" for match, text in zip(found, printed, strict=True)),
        np.bool_,
        len(printed),
    )
    place.refuse(
        bad,
        "sentiment must be {'class': …, 'polarity': …, 'subjectivity': …}",
        lambda row: repr(printed[row]),
    )
    return np.fromiter(
        (float(match[1]) if match else np.nan for match in found), np.float64, len(printed)
    )


def _stripped(texts: Sequence[str]) -> Text:
    return tuple(text.strip() for text in texts)


def _objects(texts: Text, order: NDArray[np.int64]) -> NDArray[np.object_]:
    return np.array(texts, dtype=object)[order]


class _Form(NamedTuple):
    """One form of file: the columns that it must have, and how its rows are read."""

    columns: Text
    parse: Callable[[SourceFile, TextTable], Headlines]


_SCORED = _Form(("Date", "Short Description", "Accurate Sentiments"), _parse_scored)
_SEEN = _Form(("published_at", "first_seen", "headline", "source"), _parse_seen)
_OUTLETS = _Form(("date", "sentiment", "source", "subject", "text", "title"), _parse_outlets)


def explain_labelled(source: SourceFile) -> str:
    """Return why a file of labelled sentences is not imported, or nothing if it is none."""
    labels = {"positive", "neutral", "negative"}
    rows = (source.columns, *source.first_rows)
    is_labelled = bool(rows) and all(len(row) >= 2 and row[0] in labels for row in rows)
    if source.format != "csv" or not is_labelled:
        return ""
    return "labelled sentences without a time: they train a scorer and have no place in a catalog"
