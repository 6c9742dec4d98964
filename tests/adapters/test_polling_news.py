"""Feeds as they are found: RSS, Atom, JSON Feed and JSON of anybody's making."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from adapters.options import ImportOptions
from adapters.polling_config import NewsSource
from adapters.polling_http import HttpAnswer
from adapters.polling_news import NewsReader
from adapters.polling_records import Polled, rows_of
from catalog.errors import DataError
from catalog.timestamps import NS_PER_SECOND, parse_time

NOW = parse_time("2025-05-20T12:00:00")


class Canned:
    """Answers with a body."""

    def __init__(self, body: str | bytes) -> None:
        self.body = body.encode() if isinstance(body, str) else body

    def get(self, url: str, *_: Any, conditional: bool = False) -> HttpAnswer:
        return HttpAnswer("news.test/feed", self.body, NOW, NOW)


def read(body: str | bytes, **settings: Any) -> tuple[list[Polled], NewsReader]:
    reader = NewsReader(NewsSource(**{"series": "wire", "url": "http://news.test/f", **settings}))
    http: Any = Canned(body)
    batches = reader.poll(http, 0, ImportOptions(now_ns=NOW))
    return [row for batch in batches for row in rows_of(batch)], reader


def rss(items: str, head: str = "<title>The Wire</title>") -> str:
    return f'<?xml version="1.0"?><rss version="2.0"><channel>{head}{items}</channel></rss>'


def test_rss_two() -> None:
    rows, reader = read(
        rss(
            "<item><title>Bitcoin &amp; <b>Ether</b>&#10; rise</title><guid>1</guid>"
            "<pubDate>Tue, 20 May 2025 10:15:00 +0200</pubDate></item>"
            "<item><title><![CDATA[Fees &lt;fall&gt;]]></title>"
            '<source url="http://x.test">Coin Daily</source>'
            "<pubDate>Tue, 20 May 2025 09:00:00 GMT</pubDate></item>"
        )
    )
    assert [row.fields["headline"] for row in rows] == ["Bitcoin & Ether rise", "Fees"]
    assert [row.fields["source"] for row in rows] == ["The Wire", "Coin Daily"]
    assert [row.fields["asset"] for row in rows] == ["crypto", "crypto"]
    published = [parse_time("2025-05-20T08:15"), parse_time("2025-05-20T09:00")]
    assert [row.ts_event for row in rows] == published
    assert [row.fields["ts_published"] for row in rows] == published
    assert all(math.isnan(row.value) for row in rows)
    assert reader.left_out == 0


def test_atom() -> None:
    rows, _ = read(
        '<feed xmlns="http://www.w3.org/2005/Atom"><title>Blog</title>'
        '<entry><title type="html">A &amp;amp; B</title><id>urn:1</id>'
        "<updated>2025-05-20T11:00:00Z</updated></entry>"
        "<entry><title>Dated twice</title><id>urn:2</id><updated>2025-05-20T11:30:00Z</updated>"
        "<published>2025-05-20T07:00:00Z</published></entry></feed>",
        asset="btc",
        outlet="Ours",
    )
    assert [row.fields["headline"] for row in rows] == ["Dated twice", "A & B"]
    assert {row.fields["source"] for row in rows} == {"Ours"}
    assert {row.fields["asset"] for row in rows} == {"btc"}
    assert rows[0].ts_event == parse_time("2025-05-20T07:00")


def test_items_that_cannot_be_used_are_left_out_and_counted() -> None:
    dated = "<pubDate>Tue, 20 May 2025 10:00:00 GMT</pubDate>"
    rows, reader = read(
        rss(
            f"<item><title>Good</title>{dated}</item>"
            f"<item><title>  </title>{dated}</item>"
            f"<item><description>no title</description>{dated}</item>"
            "<item><title>Tomorrow's</title><pubDate>Wed, 21 May 2025 10:00 GMT</pubDate></item>"
            "<item><title>Ancient</title><pubDate>Thu, 01 Jan 1970 00:00:01 GMT</pubDate></item>"
            f"<item><title>Good</title>{dated}</item>"
        )
    )
    assert [row.fields["headline"] for row in rows] == ["Good"]
    assert reader.left_out == 4


def test_a_headline_without_a_time_counts_from_its_first_sighting() -> None:
    body = rss("<item><title>When?</title><guid>7</guid></item>")
    reader = NewsReader(NewsSource(series="wire", url="http://news.test/f"))
    http: Any = Canned(body)
    stamps = []
    for minutes in range(3):
        now = NOW + minutes * 60 * NS_PER_SECOND
        (batch,) = reader.poll(http, 0, ImportOptions(now_ns=now))
        stamps.append(int(batch.columns["ts_event"][0]))
    assert stamps == [NOW] * 3


@pytest.mark.parametrize(
    "body",
    [
        rss("<item><title>Half &nbsp; a feed</title></item>"),
        rss("<item><title>Half &nbsp; a feed</title></item>")[:-20],
        b'<?xml version="1.0" encoding="iso-8859-1"?><rss version="2.0"><channel><item><title>'
        b"Half \xa0 a feed</title></item></channel></rss>",
        rss("<item><title>Half &#160; a feed</title></item>").replace("<?xml", "\n <?xml"),
    ],
    ids=["entity", "cut", "latin", "space"],
)
def test_broken_feeds_are_read_as_far_as_they_go(body: str | bytes) -> None:
    rows, _ = read(body)
    assert [row.fields["headline"] for row in rows] == ["Half a feed"]


def test_entities_that_grow_without_end_do_not() -> None:
    bomb = "".join(
        f'<!ENTITY l{n} "{"&l" + str(n - 1) + ";" * 1 if n else "lol"}{"x" * 10}">'
        for n in range(40)
    )
    body = (
        f'<?xml version="1.0"?><!DOCTYPE rss [{bomb}]>'
        + rss("<item><title>&l39; news</title></item>").partition("?>")[2]
    )
    rows, _ = read(body)
    assert all(len(row.fields["headline"]) <= 1_000 for row in rows)


def test_a_file_of_this_machine_is_not_read(tmp_path: Any) -> None:
    path = tmp_path / "feed.xml"
    path.write_text(rss("<item><title>Secret</title></item>"), encoding="utf-8")
    with pytest.raises(DataError, match="must answer with an RSS or Atom feed"):
        read(str(path))
    outside = f'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file://{path}">]>'
    rows, _ = read(outside + rss("<item><title>&x; told</title></item>").partition("?>")[2])
    assert "Secret" not in str(rows)


def test_a_json_feed() -> None:
    feed = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": "JSON Wire",
        "items": [
            {"id": "1", "title": "One", "date_published": "2025-05-20T10:00:00+02:00"},
            {"id": "2", "content_text": "Two", "date_published": "2025-05-20T09:00:00Z",
             "_sentiment": {"score": -0.5, "coin": "btc"}},
            {"id": "3", "title": "Bad score", "_sentiment": {"score": 7}},
            {"id": "4", "title": "Bad time", "date_published": "yesterday"},
            "no item",
        ],
    }  # fmt: skip
    fields = {"score": "_sentiment.score", "asset": "_sentiment.coin"}
    rows, reader = read(json.dumps(feed), format="json_feed", fields=fields)
    assert [row.fields["headline"] for row in rows] == ["One", "Two"]
    assert [row.fields["asset"] for row in rows] == ["crypto", "btc"]
    assert rows[1].value == -0.5
    assert rows[0].ts_event == parse_time("2025-05-20T08:00")
    assert reader.left_out == 3
    with pytest.raises(DataError, match="version must be that of a JSON Feed, was None"):
        read("{}", format="json_feed")
    with pytest.raises(DataError, match="items must be a list, was None"):
        read('{"version": "https://jsonfeed.org/version/1"}', format="json_feed")


def test_json_with_a_map_of_fields() -> None:
    body = {
        "Data": {
            "list": [
                {"t": 1747735200, "head": "Seconds", "by": {"name": "A"}, "coin": "BTC", "s": 0.5},
                {"t": 1747735201000, "head": "Milliseconds", "by": {"name": "B"}},
                {"t": "1747735202", "head": "Digits", "by": None},
                {"t": "2025-05-20 10:00:03", "head": "ISO without a zone"},
                {"t": True, "head": "\ud800 half a pair"},
                {"t": [], "head": "A list for a time"},
                {"t": 1e300, "head": "Beyond all time"},
            ]
        }
    }
    fields = {
        "items": "Data.list", "headline": "head", "published": "t",
        "source": "by.name", "asset": "coin", "score": "s",
    }  # fmt: skip
    rows, reader = read(json.dumps(body), format="json", fields=fields, outlet="Us")
    base = parse_time("2025-05-20T10:00:00")
    assert [(row.ts_event - base) // NS_PER_SECOND for row in rows] == [0, 1, 2, 3]
    assert [row.fields["source"] for row in rows] == ["A", "B", "Us", "Us"]
    assert [row.fields["asset"] for row in rows] == ["btc", "crypto", "crypto", "crypto"]
    assert rows[0].value == 0.5
    assert reader.left_out == 3
    bare, _ = read('[{"title": "Bare", "published_at": "2025-05-20T09:00Z"}]', format="json")
    assert [row.fields["headline"] for row in bare] == ["Bare"]
    with pytest.raises(DataError, match="items must be a list"):
        read(json.dumps(body), format="json", fields={"items": "Data.items"})


def test_a_feed_is_cut_to_its_newest_items_and_a_text_to_a_headline() -> None:
    items = [{"title": f"{n} {'word ' * 400}", "published_at": 1747735200 - n} for n in range(30)]
    rows, _ = read(json.dumps(items), format="json", max_items=10)
    assert len(rows) == 10
    assert {len(row.fields["headline"]) for row in rows} == {1_000}
    assert rows[-1].fields["headline"].startswith("0 ")
