"""Headlines from feeds: RSS and Atom, JSON Feed, and JSON that a map of fields explains.

A feed is a window on the newest headlines, not an archive: it repeats itself at every poll, items
leave it after a while, and people publish broken ones. So here a bad item is left out and counted
where a bad row of numbers has its whole answer refused; an answer that is no feed at all is refused
as well.

Where a score comes from is not decided here. A JSON feed may carry one; else a scorer is asked
(`adapters.polling.PollService`), and without either the score is NaN, as it is in a catalog for
headlines that nobody scored.
"""

from __future__ import annotations

import calendar
import html
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from adapters.checks import EARLIEST_NS, Place
from adapters.news import Headlines, to_batch
from adapters.options import ImportOptions
from adapters.polling_config import NewsSource
from adapters.polling_http import HttpAnswer, PollHttp
from catalog.errors import DataError
from catalog.records import Batch
from catalog.timestamps import NS_PER_SECOND

_MOST_CHARACTERS = 1_000
"""A longer text is no headline; what is beyond is cut off."""
_MOST_UNDATED = 5_000
_MILLISECONDS_FROM = 10**11
"""Seconds stay below this until the year 5138; milliseconds passed it in 1973."""
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, slots=True)
class Item:
    """One headline as a feed has it.

    Parameters
    ----------
    text : str
        The headline, plain.
    published_ns : int or None
        UTC nanoseconds; None if the feed does not say.
    identity : str
        By which the feed knows it again; the text if there is nothing else.
    outlet, asset : str
        Who publishes it, and what it is about.
    score : float
        In [-1, 1]; NaN where there is none.
    """

    text: str
    published_ns: int | None
    identity: str
    outlet: str
    asset: str
    score: float = np.nan


class NewsReader:
    """The headlines of one feed.

    Attributes
    ----------
    left_out : int
        Items without a text, from the future, or with an impossible score or time, since the
        start.
    """

    def __init__(self, source: NewsSource) -> None:
        self.source = source
        self.name = f"news {source.series}"
        self.names = (f"news.{source.series}",)
        self.left_out = 0
        # When a headline without a time was first seen: it must not be new at every poll.
        self._undated: dict[str, int] = {}

    def poll(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the headlines that the feed has; nothing if it has not changed."""
        answer = http.get(self.source.url, conditional=True)
        if not answer.changed:
            return []
        items = self._items(answer)[: self.source.max_items]
        return self._batches(answer, items, options)

    def history(self, http: PollHttp, since_ns: int, options: ImportOptions) -> list[Batch]:
        """Return the headlines that the feed still has; it keeps no others."""
        answer = http.get(self.source.url)
        items = self._items(answer)[: self.source.max_items]
        return self._batches(answer, items, options)

    def _items(self, answer: HttpAnswer) -> list[Item | None]:
        if self.source.format == "feed":
            return list(feed_items(answer, self.source))
        if self.source.format == "json_feed":
            return list(json_feed_items(answer, self.source))
        return list(json_items(answer, self.source))

    def _batches(
        self, answer: HttpAnswer, items: Sequence[Item | None], options: ImportOptions
    ) -> list[Batch]:
        now = options.clock_ns()
        rows = [(item, self._published(item, now)) for item in items if item is not None]
        kept = [(item, at) for item, at in rows if EARLIEST_NS <= at <= now]
        self.left_out += len(items) - len(kept)
        if not kept:
            return []
        columns = [item for item, _ in kept]
        headlines = Headlines(
            Place(answer.name, np.arange(1, len(kept) + 1, dtype=np.int64), "item"),
            np.array([at for _, at in kept], dtype=np.int64),
            None,
            tuple(item.outlet for item in columns),
            tuple(item.asset for item in columns),
            tuple(item.text for item in columns),
            np.array([item.score for item in columns], dtype=np.float64),
        )
        return [to_batch(self.source.series, headlines, options)]

    def _published(self, item: Item, now: int) -> int:
        if item.published_ns is not None:
            return item.published_ns
        first = self._undated.setdefault(item.identity, now)
        while len(self._undated) > _MOST_UNDATED:
            del self._undated[next(iter(self._undated))]
        return first


def feed_items(answer: HttpAnswer, source: NewsSource) -> Iterator[Item | None]:
    """Yield the items of an RSS or Atom feed; None for one that cannot be used.

    Raises
    ------
    DataError
        If it is no feed.
    """
    # Here, because whoever has no news need not load it.
    import feedparser  # type: ignore[import-untyped]

    parsed = feedparser.parse(
        # As a stream: a text could be taken for an address or the name of a file.
        io.BytesIO(answer.body),
        sanitize_html=False,
        resolve_relative_uris=False,
    )
    _let_go(parsed.pop("bozo_exception", None))
    if not parsed.get("version"):
        raise DataError(
            f"{answer.name}: must answer with an RSS or Atom feed, was {answer.body[:40]!r}"
        )
    title = source.outlet or _plain_text(parsed.feed.get("title", "")) or source.series
    for entry in parsed.entries:
        text = _plain_text(entry.get("title", ""))
        moment = entry.get("published_parsed") or entry.get("updated_parsed")
        published = None if moment is None else _of_struct(moment)
        outlet = _plain_text(entry.get("source", {}).get("title", "")) or title
        identity = str(entry.get("id") or entry.get("link") or text)
        yield Item(text, published, identity, outlet, source.asset) if text else None


def json_feed_items(answer: HttpAnswer, source: NewsSource) -> Iterator[Item | None]:
    """Yield the items of a JSON Feed (version 1 or 1.1); None for one that cannot be used.

    Raises
    ------
    DataError
        If it is none.
    """
    content = answer.json()
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str) or "jsonfeed.org/version/" not in version:
        raise DataError(f"{answer.name}: version must be that of a JSON Feed, was {version!r:.80}")
    title = source.outlet or _plain_text(content.get("title", "")) or source.series
    fields = source.fields
    for row in _rows(answer, content.get("items")):
        text = next(
            (
                found
                for key in ("title", "summary", "content_text")
                if (found := _plain_text(_at(row, key)))
            ),
            "",
        )
        stamp = _at(row, "date_published") or _at(row, "date_modified")
        identity = str(_at(row, "id") or _at(row, "url") or text)
        asset = _at(row, fields.asset) if fields.asset else None
        score = _at(row, fields.score) if fields.score else None
        yield _item(text, stamp, identity, (title, str(asset or source.asset)), score)


def json_items(answer: HttpAnswer, source: NewsSource) -> Iterator[Item | None]:
    """Yield the items of a JSON answer as its map of fields says; None for an unusable one.

    Raises
    ------
    DataError
        If there is no list of items.
    """
    fields = source.fields
    content = answer.json()
    for row in _rows(answer, _at(content, fields.items) if fields.items else content):
        text = _plain_text(_at(row, fields.headline))
        found = {
            name: _at(row, key)
            for name in ("id", "source", "asset", "score")
            if (key := getattr(fields, name)) is not None
        }
        outlet = _plain_text(found.get("source")) or source.outlet or source.series
        asset = str(found.get("asset") or source.asset).lower()
        identity = str(found.get("id") or text)
        yield _item(text, _at(row, fields.published), identity, (outlet, asset), found.get("score"))


def _item(text: str, stamp: Any, identity: str, whom: tuple[str, str], score: Any) -> Item | None:
    """Return an item, or None if its text, time or score cannot be used."""
    try:
        published = None if stamp is None else _time_ns(stamp)
        number = np.nan if score is None else float(score)
    except (ValueError, TypeError, OverflowError):
        return None
    if not text or abs(number) > 1.0:
        return None
    return Item(text, published, identity, *whom, number)


def _time_ns(stamp: Any) -> int:
    """Return UTC nanoseconds of an ISO 8601 text, or of seconds or milliseconds since 1970."""
    if isinstance(stamp, str) and not stamp.isdecimal():
        moment = datetime.fromisoformat(stamp.strip())
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1_000) * 1_000_000
    number = float(stamp)
    seconds = number / 1_000.0 if abs(number) >= _MILLISECONDS_FROM else number
    return round(seconds * 1_000) * 1_000_000


def _of_struct(moment: Any) -> int | None:
    try:
        return calendar.timegm(moment) * NS_PER_SECOND
    except (ValueError, TypeError, OverflowError):
        return None


def _rows(answer: HttpAnswer, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{answer.name}: items must be a list, was {value!r:.80}")
    return value


def _at(row: Any, path: str) -> Any:
    """Return what stands at a dotted path of objects; None if there is nothing."""
    for key in path.split("."):
        if not isinstance(row, Mapping):
            return None
        row = row.get(key)
    return row


def _plain_text(value: Any) -> str:
    """Return a text without markup and line breaks; nothing for what is no text."""
    if not isinstance(value, str):
        return ""
    text = html.unescape(_TAG.sub(" ", html.unescape(value)))
    # Half a pair of surrogates, which JSON can write, cannot be stored.
    text = text.encode("utf-8", errors="ignore").decode("utf-8")
    return " ".join(text.replace("\0", " ").split())[:_MOST_CHARACTERS]


def _let_go(error: Any) -> None:
    """Free an XML parser's exception from the parser, which it would keep in a cycle."""
    if isinstance(error, BaseException):
        error.__traceback__ = None
        if hasattr(error, "_locator"):
            error._locator = None


type Scorer = Callable[[str], float]
"""Sentiment of a headline from -1 (bad for the price) to 1 (good), NaN for none."""
