"""The vendors of slow inputs on loopback: their documented answers, their clock, and faults."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MS = 1_000_000
SECOND = 1_000 * MS
HOUR = 3_600 * SECOND
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a vendor, from when on it is served."""

    event_ns: int
    available_ns: int
    fields: dict[str, Any]


@dataclass
class Vendors:
    """What is served, by whose clock, and what goes wrong.

    `faults` are committed one a request, in order; after them all is as it should be. A fault is a
    function that takes the handler and answers in its own way.
    """

    clock_ns: Callable[[], int]
    funding: list[Row] = field(default_factory=list)
    dvol: list[Row] = field(default_factory=list)
    fear_greed: list[Row] = field(default_factory=list)
    onchain: list[Row] = field(default_factory=list)
    news: list[Row] = field(default_factory=list)
    faults: list[Callable[[Any], None]] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    queries: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    skew_ns: int = 0
    page: int = 1_000
    base_url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def now(self) -> int:
        """The vendors' clock."""
        return self.clock_ns() + self.skew_ns

    def known(self, rows: Sequence[Row]) -> list[Row]:
        """Return what is out by now."""
        return [row for row in rows if row.available_ns <= self.now]


def _funding(vendors: Vendors, query: dict[str, str]) -> Any:
    start = int(query.get("startTime", 0)) * MS
    rows = [row for row in vendors.known(vendors.funding) if row.event_ns >= start]
    return [
        {
            "symbol": query["symbol"],
            "fundingTime": row.event_ns // MS,
            "fundingRate": row.fields["rate"],
            "markPrice": "34287.54619963",
        }
        for row in rows[: int(query["limit"])]
    ]


def _premium(vendors: Vendors, query: dict[str, str]) -> Any:
    return {
        "symbol": query["symbol"],
        "markPrice": "11793.63104562",
        "indexPrice": "11781.80495970",
        "estimatedSettlePrice": "11781.16138815",
        # The estimate of the next settlement: nothing that may be published.
        "lastFundingRate": "0.09990000",
        "interestRate": "0.00010000",
        "nextFundingTime": (vendors.now // (8 * HOUR) + 1) * 8 * HOUR // MS,
        "time": vendors.now // MS,
    }


def _dvol(vendors: Vendors, query: dict[str, str]) -> Any:
    start, end = int(query["start_timestamp"]) * MS, int(query["end_timestamp"]) * MS
    # The hour under way is served, too, and changes until it is over.
    rows = [
        row for row in vendors.dvol if start <= row.event_ns <= end and row.event_ns <= vendors.now
    ]
    page, rest = rows[-vendors.page :], rows[: -vendors.page]
    data = []
    for row in page:
        levels = [row.fields[name] for name in ("open", "high", "low", "close")]
        if row.event_ns + HOUR > vendors.now:
            levels = [levels[0], levels[0] + 0.5, levels[0] - 0.5, levels[0] + 0.25]
        data.append([row.event_ns // MS, *levels])
    continuation = rest[-1].event_ns // MS if rest else None
    clock = vendors.now // 1_000
    result = {"data": data, "continuation": continuation}
    return {"jsonrpc": "2.0", "result": result, "usIn": clock, "usOut": clock, "usDiff": 0}


def _fear_greed(vendors: Vendors, query: dict[str, str]) -> Any:
    rows = vendors.known(vendors.fear_greed)[::-1][: int(query["limit"])]
    data = [
        {
            "value": row.fields["value"],
            "value_classification": "Fear",
            "timestamp": str(row.event_ns // SECOND),
        }
        for row in rows
    ]
    return {"name": "Fear and Greed Index", "data": data, "metadata": {"error": None}}


def _onchain(vendors: Vendors, query: dict[str, str]) -> Any:
    metrics = query["metrics"].split(",")
    start = query["start_time"]
    days: dict[int, dict[str, Any]] = {}
    for row in vendors.known(vendors.onchain):
        if _iso(row.event_ns) >= start and row.fields["metric"] in metrics:
            day = days.setdefault(
                row.event_ns, {"asset": query["assets"], "time": _iso(row.event_ns)}
            )
            day[row.fields["metric"]] = row.fields["value"]
    rows = [days[day] for day in sorted(days)]
    first = int(query.get("next_page_token", 0))
    page = rows[first : first + vendors.page]
    answer: dict[str, Any] = {"data": page}
    if first + vendors.page < len(rows):
        answer["next_page_token"] = str(first + vendors.page)
        answer["next_page_url"] = "http://192.0.2.1/elsewhere"
    return answer


def _iso(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime(ns // SECOND))


def _rss(vendors: Vendors, query: dict[str, str]) -> str:
    items = "".join(
        f"<item><title>{row.fields['headline']}</title><guid>{row.fields['id']}</guid>"
        f"<source url='http://192.0.2.1/'>{row.fields['source']}</source>"
        f"<pubDate>{formatdate(row.event_ns / SECOND, usegmt=True)}</pubDate></item>"
        for row in vendors.known(vendors.news)[::-1][:20]
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"><channel>'
        f"<title>The Wire</title>{items}</channel></rss>"
    )


def _json_feed(vendors: Vendors, query: dict[str, str]) -> Any:
    items = [
        {
            "id": row.fields["id"],
            "title": row.fields["headline"],
            "date_published": _iso(row.event_ns),
            "_sentiment": {"score": row.fields.get("score")},
        }
        for row in vendors.known(vendors.news)[::-1]
    ]
    return {"version": "https://jsonfeed.org/version/1.1", "title": "The Wire", "items": items}


ROUTES: dict[str, Callable[[Vendors, dict[str, str]], Any]] = {
    "/fapi/v1/fundingRate": _funding,
    "/fapi/v1/premiumIndex": _premium,
    "/api/v2/public/get_volatility_index_data": _dvol,
    "/fng/": _fear_greed,
    "/v4/timeseries/asset-metrics": _onchain,
    "/rss": _rss,
    "/feed.json": _json_feed,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A head and a body are two writes: with the algorithm each answer would take 40 ms.
    disable_nagle_algorithm = True
    vendors: Vendors

    def do_GET(self) -> None:
        vendors, parts = self.vendors, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with vendors.lock:
            vendors.requests[parts.path] += 1
            vendors.queries.append(query)
            vendors.headers.append(dict(self.headers.items()))
            fault = vendors.faults.pop(0) if vendors.faults else None
        if fault is not None:
            fault(self)
            return
        answer = ROUTES[parts.path](vendors, query)
        self.answer(answer if isinstance(answer, str) else json.dumps(answer))

    def answer(
        self, text: str | bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Send an answer by the vendors' clock, unless it is what the client has already."""
        body = text.encode() if isinstance(text, str) else text
        tag = f'"{hash(body)}"'
        unchanged = status == 200 and self.headers.get("If-None-Match") == tag
        self.send_response_only(304 if unchanged else status)
        self.send_header("Date", formatdate(self.vendors.now / SECOND, usegmt=True))
        self.send_header("ETag", tag)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0" if unchanged else str(len(body)))
        self.end_headers()
        if not unchanged:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def status(code: int, body: str = "", **headers: str) -> Callable[[Any], None]:
    """A fault: an answer with another status; ``retry_after="3"`` is a header."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return lambda handler: handler.answer(body, code, named)


def says(body: str | bytes) -> Callable[[Any], None]:
    """A fault: a body that is not what was asked for."""
    return lambda handler: handler.answer(body)


def silent(secs: float) -> Callable[[Any], None]:
    """A fault: nothing is said for a time, then the connection is dropped."""

    def fault(handler: Any) -> None:
        time.sleep(secs)
        handler.close_connection = True

    return fault


def drops(handler: Any) -> None:
    """Close the connection without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def cut(handler: Any) -> None:
    """Promise a body and send half of it."""
    handler.send_response_only(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 500)
    handler.close_connection = True


def drips(handler: Any) -> None:
    """Send a body a byte at a time, faster than any time-out of silence."""
    handler.send_response_only(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        handler.close_connection = True


_PACKED = gzip.compress(bytes(10_000_000), 1)
"""Packed beforehand: on a busy machine it takes longer than a client waits."""


def bomb(handler: Any) -> None:
    """Send a small body that unpacks to a large one."""
    handler.answer(_PACKED, headers={"Content-Encoding": "gzip"})


@contextmanager
def serving(vendors: Vendors) -> Iterator[Vendors]:
    """Serve on a free port of loopback."""
    handler = type("Handler", (_Handler,), {"vendors": vendors})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    vendors.base_url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield vendors
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
