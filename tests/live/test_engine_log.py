from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest

from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_SECOND, parse_time
from live.engine_log import DayFiles, EngineLog, bar_id, log_file, log_files
from live.event_log import ClickHouse, export_events
from live.log_reader import LogFilter, chain_of, follow_logs, line_of, read_logs
from live.new_rows import NewEntries, NewRows
from live.run_tap import RunTap
from strategies.guard_state import GuardEvent
from strategies.recorder import Decision, FillRow, OrderRow, RunRecorder

ROOT = Path(__file__).parents[2]
NOON = parse_time("2026-11-20T12:00:00")
BTC = "BTCUSDT-PERP.BINANCE"


class Clock:
    def __init__(self, now: int = NOON) -> None:
        self.now = now

    def __call__(self) -> int:
        self.now += 1_000
        return self.now


def written(folder: Path, *engines: str, clock: Clock | None = None) -> None:
    clock = clock or Clock()
    for name in engines:
        log = EngineLog(folder, name, clock=clock)
        log.event("fill", "sold", order="o1", bar=bar_id(BTC, 5), price=float("nan"))
        log.event("error", "it fell", path=Path("x"))
        log.close()


def test_each_line_is_json_in_the_file_of_its_engine_and_day(tmp_path: Path) -> None:
    written(tmp_path, "BTCUSDT")
    file = tmp_path / "engine-BTCUSDT-2026-11-20.jsonl"
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first == {
        "time": "2026-11-20T12:00:00.000001Z",
        "ts": NOON + 1_000,
        "level": "info",
        "engine": "BTCUSDT",
        "kind": "fill",
        "text": "sold",
        "order": "o1",
        "bar": f"{BTC}@5",
        "price": None,
    }
    assert (second["level"], second["path"]) == ("error", "x")


def test_days_change_and_the_thirty_first_goes(tmp_path: Path) -> None:
    other = log_file(tmp_path, "engine-ETHUSDT", NOON - 90 * NS_PER_DAY)
    other.write_text("{}\n")
    files = DayFiles(tmp_path, "engine-BTCUSDT")
    for day in range(40):
        files.write(NOON + day * NS_PER_DAY, b'{"ts":%d}' % day)
    # A clock that goes back opens no earlier day.
    files.write(NOON, b'{"ts":99}')
    files.close()
    found = [one for one in log_files(tmp_path) if one.engine == "BTCUSDT"]
    assert len(found) == 30
    assert found[-1].path.read_text() == '{"ts":39}\n{"ts":99}\n'
    assert other.exists(), "another engine's are its own affair"


TELL = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from live.engine_log import EngineLog
log = EngineLog(Path({folder!r}), "A")
number = 0
print("ready", flush=True)
while True:
    number += 1
    log.event("bar", "x" * 200, number=number)
    if log.dropped:
        import time; time.sleep(0.01)
"""


def test_a_killed_process_spoils_no_line_of_the_next(tmp_path: Path) -> None:
    code = TELL.format(root=str(ROOT), folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    while not log_files(tmp_path) or log_files(tmp_path)[0].path.stat().st_size < 100_000:
        time.sleep(0.01)
    child.kill()
    child.communicate()
    file = log_files(tmp_path)[0].path
    with file.open("ab") as torn:
        torn.write(b'{"ts": 5, "kind": "half')
    log = EngineLog(tmp_path, "A")
    log.event("start", "again")
    log.close()
    records = list(read_logs(tmp_path, LogFilter()))
    assert records[-1]["text"] == "again"
    assert len(records) > 100


def test_a_disk_that_fails_and_lines_without_room_are_counted_and_nothing_raises(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("not a folder")
    log = EngineLog(tmp_path / "file", "A")
    log.event("bar")
    log.close()
    assert log.failures == 1
    log.event("late", "after the end")
    slow = EngineLog(tmp_path, "B")
    started = time.perf_counter()
    for number in range(25_000):
        slow.event("bar", number=number)
    assert time.perf_counter() - started < 5.0
    slow.close(20.0)
    kept = list(read_logs(tmp_path, LogFilter(engines=("B",))))
    lost = sum(int(one["text"].split()[0]) for one in kept if one["kind"] == "dropped")
    assert lost == slow.dropped
    assert sum(one["kind"] == "bar" for one in kept) == 25_000 - slow.dropped


def test_logs_are_merged_in_time_and_filtered(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(2):
        written(tmp_path, "A", "B", clock=clock)
    everything = list(read_logs(tmp_path, LogFilter()))
    assert [one["ts"] for one in everything] == sorted(one["ts"] for one in everything)
    assert len(everything) == 8
    cases = [
        (LogFilter(engines=("A",)), 4),
        (LogFilter(kinds=("fill",)), 4),
        (LogFilter(level="warning"), 4),
        (LogFilter(since=everything[6]["ts"]), 2),
        (LogFilter(until=everything[0]["ts"]), 1),
        (LogFilter(links=frozenset({"o1"})), 4),
        (LogFilter(text="FELL"), 4),
        (LogFilter(text="rose"), 0),
    ]
    for chosen, count in cases:
        assert len(list(read_logs(tmp_path, chosen))) == count, chosen
    assert line_of(everything[0]).endswith("A  fill  sold  [o1]")
    with pytest.raises(DataError, match="logs of C"):
        list(read_logs(tmp_path, LogFilter(engines=("C",))))


def test_following_finds_lines_days_and_engines_as_they_come(tmp_path: Path) -> None:
    clock = Clock()
    written(tmp_path, "A", clock=clock)
    found: list[tuple[str, str]] = []
    ended = threading.Event()

    def follow() -> None:
        lines = follow_logs(tmp_path, LogFilter(kinds=("fill",)), ended.is_set)
        found.extend((str(one["engine"]), str(one["time"])[:10]) for one in lines)

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.1)
    written(tmp_path, "A", clock=clock)
    clock.now += NS_PER_DAY
    written(tmp_path, "A", "B", clock=clock)
    deadline = time.monotonic() + 10.0
    while len(found) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    ended.set()
    thread.join(5.0)
    assert sorted(found) == [("A", "2026-11-20"), ("A", "2026-11-21"), ("B", "2026-11-21")]


class Said:
    """A prediction, as far as the log looks at it."""

    def __init__(self, ts: int) -> None:
        self.ts_init, self.prob_up, self.epistemic, self.degraded = ts, 0.61, 0.02, False


def order(name: str, ts: int, **fields: object) -> OrderRow:
    return OrderRow(name, ts, BTC, 1, 2.0, "enter_long", **fields)  # type: ignore[arg-type]


def test_one_identifier_finds_the_chain_from_bar_to_fill(tmp_path: Path) -> None:
    recorder = RunRecorder((BTC,), 1000.0)
    recorder.guard_events.append(GuardEvent(1, "hold", "halted", "manual", "of before"))
    predictions: dict[str, Said] = {}
    log = EngineLog(tmp_path, "BTCUSDT", clock=Clock())
    tap = RunTap(recorder, lambda: predictions, log)
    for ts in (100, 200):
        predictions[BTC] = Said(ts)
        entry = f"E{ts}" if ts == 200 else ""
        reason = "enter_long" if entry else "hold"
        recorder.decision(Decision(ts, BTC, 0.61, 1, 0.1, reason, 2.0 if entry else 0.0, entry))
        if entry:
            recorder.order(order(entry, ts))
        tap.look()
    recorder.order_status("E200", "ACCEPTED")
    tap.look()
    for _ in range(2):
        recorder.fill(FillRow(205, "E200", BTC, 1, 1.0, 50.0, 0.01, "enter_long"))
    recorder.guard_events.append(GuardEvent(1, "hold", "reducing", "manual", "anna"))
    recorder.error("a callback")
    tap.look()
    tap.look()
    log.close()
    bar = f"{BTC}@200"
    for identifier in (bar, f"{bar}/P", "E200", "E200/2"):
        chain = list(read_logs(tmp_path, chain_of(tmp_path, identifier, LogFilter())))
        assert [one["kind"] for one in chain] == [
            "prediction", "decision", "order", "status", "fill", "fill", "status",
        ]  # fmt: skip
    by_kind = {one["kind"]: one for one in chain}
    assert by_kind["decision"]["prediction"] == by_kind["prediction"]["prediction"]
    assert by_kind["decision"]["order"] == by_kind["order"]["order"] == by_kind["fill"]["order"]
    assert by_kind["order"]["decision"] == by_kind["decision"]["decision"]
    rest = list(read_logs(tmp_path, LogFilter(level="warning")))
    assert [one["kind"] for one in rest] == ["guard", "error"]
    with pytest.raises(DataError, match="'nobody', none has"):
        chain_of(tmp_path, "nobody", LogFilter())


def test_an_order_that_is_refused_between_two_looks_is_a_warning(tmp_path: Path) -> None:
    recorder = RunRecorder((BTC,), 1000.0)
    log = EngineLog(tmp_path, "BTCUSDT", clock=Clock())
    tap = RunTap(recorder, dict, log)
    recorder.order(order("E200", 200))
    recorder.order_status("E200", "REJECTED", "code=-2019: Margin is insufficient.")
    tap.look()
    tap.look()
    log.close()
    (told,) = read_logs(tmp_path, LogFilter(level="warning"))
    assert (told["kind"], told["order"]) == ("reject", "E200")
    assert told["text"] == "REJECTED: code=-2019: Margin is insufficient."


def test_rows_that_are_taken_from_memory_are_no_news() -> None:
    rows = [object() for _ in range(3)]
    news = NewRows(rows[:1])
    assert news.of(rows) == rows[1:]
    assert news.of(rows) == []
    later = [object() for _ in range(2)]
    assert news.of([*rows[2:], *later]) == later
    assert news.of([]) == []
    newest = object()
    assert news.of([newest]) == [newest]
    assert news.count == 5
    entries = NewEntries({"a": 1})
    assert entries.of({"a": 1, "b": 2}) == [2]
    assert entries.of({"b": 2}) == []
    assert entries.of({"b": 2, "a": 1}) == [1]
    assert entries.count == 2


class House(ThreadingHTTPServer):
    """A ClickHouse as far as its HTTP interface is used: blocks with a known token are dropped."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.rows: list[dict[str, object]] = []
        self.tokens: list[str] = []
        self.tables: list[str] = []
        self.accounts: set[tuple[str, str]] = set()
        self.lose_answers = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: House

    def do_POST(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        house = self.server
        house.accounts.add((self.headers["X-ClickHouse-User"], self.headers["X-ClickHouse-Key"]))
        query = asked["query"][0]
        status = 200
        if query.startswith("CREATE"):
            house.tables.append(query)
        elif asked["insert_deduplication_token"][0] not in house.tokens:
            house.tokens.append(asked["insert_deduplication_token"][0])
            house.rows += [json.loads(line) for line in body.splitlines()]
            if house.lose_answers:
                house.lose_answers -= 1
                status = 503
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"Code: 159" if status != 200 else b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def house() -> object:
    server = House()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_events_become_parquet_and_grow_with_the_day(tmp_path: Path) -> None:
    clock = Clock()
    logs = tmp_path / "logs"
    written(logs, "A", "B", clock=clock)
    found = export_events(tmp_path)
    assert (found.files, found.rows) == (2, 4)
    path = tmp_path / "events" / "A" / "2026-11-20.parquet"
    table = pq.read_table(path)
    assert table.column("ts").to_pylist()[0].isoformat().startswith("2026-11-20T12:00:00")
    assert table.column("order").to_pylist() == ["o1", ""]
    assert json.loads(table.column("fields").to_pylist()[0]) == {"price": None}
    assert export_events(tmp_path) == found._replace(files=0, rows=0)
    written(logs, "A", clock=clock)
    assert export_events(tmp_path, ("A",)).rows == 4
    assert pq.read_table(path).num_rows == 4
    with pytest.raises(DataError, match="there must be logs"):
        export_events(tmp_path / "elsewhere")


def test_clickhouse_gets_every_line_once_whatever_answer_is_lost(
    tmp_path: Path, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKHOUSE_USER", "anna")
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "geheim-geheim")
    clock = Clock()
    logs = tmp_path / "logs"
    written(logs, "A", clock=clock)
    target = ClickHouse.of(house.url, "levibot.events")
    assert "geheim" not in repr(target)
    house.lose_answers = 1
    with pytest.raises(DataError, match=r"must confirm, said 503: Code: 159"):
        export_events(tmp_path, (), target)
    assert len(house.rows) == 2
    # The log has grown meanwhile: the block is the same one all the same.
    written(logs, "A", clock=clock)
    assert export_events(tmp_path, (), target).sent == 4
    assert [row["ts"] for row in house.rows] == [
        f"{NOON // NS_PER_SECOND}.{number * 1_000:09d}" for number in range(1, 5)
    ]
    assert export_events(tmp_path, (), target).sent == 0
    assert house.accounts == {("anna", "geheim-geheim")}
    assert "MergeTree" in house.tables[0]


@pytest.mark.parametrize("url", ["127.0.0.1:8123", "http://anna:x@h:1", "ftp://h"])
def test_an_address_with_an_account_or_of_no_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be http") as caught:
        ClickHouse.of(url, "t")
    assert "anna" not in str(caught.value)
    with pytest.raises(ConfigError, match="--table"):
        ClickHouse.of("http://h:1", "t; DROP TABLE x")
    with pytest.raises(DataError, match="did not"):
        ClickHouse.of("http://127.0.0.1:9", "t").prepare()


def test_a_full_disk_ends_no_log_for_good(tmp_path: Path) -> None:
    """Closing writes what is buffered, and fails where there is no room: the next line opens."""
    files = DayFiles(tmp_path, "engine-A")
    files.write(0, b"first")

    class Full:
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    assert files._file is not None
    files._file.close()
    files._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left"):
        files.close()
    files.write(1, b"second")
    files.close()
    assert log_file(tmp_path, "engine-A", 0).read_bytes() == b"first\nsecond\n"
