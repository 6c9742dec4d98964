"""The archive over a real HTTP server on loopback, well and badly behaved."""

from __future__ import annotations

import errno
import io
import json
import time
import zipfile

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from adapters.fetch import FetchConfig, fetch, months, plan
from catalog.errors import DataError, IntegrityError
from catalog.store import Catalog
from catalog.timestamps import parse_time
from live.cli import app

NOW = parse_time("2024-04-10")
PERP = "BTCUSDT-PERP.BINANCE"
KLINES = "data/futures/um/monthly/klines/BTCUSDT/15m/BTCUSDT-15m-2024-{:02d}.zip"
FUNDING = "data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-{:02d}.zip"


def packed(name, text):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def month(klines, candles):
    """Return a maker of a month's zip: its first day only, which is enough."""

    def make(number, seed=7):
        frame = candles(96, start=f"2024-{number:02d}-01", seed=seed)
        text = klines(frame, header=number % 2 == 0)  # it comes and goes in the archive too
        return packed(f"BTCUSDT-15m-2024-{number:02d}.csv", text)

    return make


@pytest.fixture
def published(archive, month, settlements):
    """An archive with the candles and settlements of January to March 2024."""
    for number in (1, 2, 3):
        archive.put(KLINES.format(number), month(number))
        name = f"BTCUSDT-fundingRate-2024-{number:02d}.csv"
        text = settlements(3, start=f"2024-{number:02d}-01")
        archive.put(FUNDING.format(number), packed(name, text))
    return archive


@pytest.fixture
def run(published, catalog):
    """Return a function that fetches January to March and does not wait."""

    def go(into=None, *, now=NOW, cache=None, progress=None, **changes):
        settings = {
            "symbols": ("BTCUSDT",),
            "interval": "15m",
            "start_month": "2024-01",
            "end_month": "2024-03",
            "base_url": published.base_url,
            "retries": 2,
            "requests_per_second": 1e6,
            "timeout_secs": 5.0,
        }
        config = FetchConfig.model_validate(settings | changes)
        more = {} if progress is None else {"progress": progress}
        return fetch(
            config, into or catalog, cache=cache, now_ns=now, sleep=lambda seconds: None, **more
        )

    return go


def statuses(report):
    return [outcome.status for outcome in report.files]


def bars(catalog):
    return catalog.bars(PERP, "15m").ts_init.tolist()


def test_months_are_fetched_verified_and_imported(run, published, catalog):
    seen = []
    report = run(progress=lambda *state: seen.append(state))
    assert statuses(report) == ["took"] * 6
    assert report.exit_code == 0
    assert len(bars(catalog)) == 3 * 96
    assert len(catalog.bar_flow(PERP, "15m").ts_init) == 3 * 96
    assert len(catalog.funding(PERP)) == 9
    assert seen == [("fetch", done, 6) for done in range(7)]
    assert all(published.requests[f"{KLINES.format(n)}.CHECKSUM"] == 1 for n in (1, 2, 3))
    leftovers = [path.name for path in catalog.path.rglob("*") if path.suffix in {".zip", ".part"}]
    assert leftovers == []


def test_what_is_there_is_not_fetched_again(run, published, catalog):
    run(end_month="2024-02")
    before = sum(published.requests.values())
    report = run()
    assert statuses(report) == ["unchanged", "unchanged", "took"] * 2
    assert sum(published.requests.values()) == before + 4
    assert len(bars(catalog)) == 3 * 96


def test_a_run_that_was_stopped_goes_on(run, published, catalog):
    class StoppedError(Exception):
        pass

    def stop(stage, done, total):
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(progress=stop)
    assert len(bars(Catalog.open(catalog.path))) == 2 * 96
    report = run(Catalog.open(catalog.path))
    assert statuses(report) == ["unchanged", "unchanged", "took", "took", "took", "took"]
    assert len(bars(catalog)) == 3 * 96


@pytest.mark.parametrize(
    "faults",
    [
        [("drop", "")],
        [("hang up", ""), ("drop", "")],
        [("status", "503"), ("status", "429 1")],
        [("corrupt", "")],
    ],
)
def test_a_server_that_stumbles_is_met_with_patience(run, published, catalog, faults):
    published.faults[KLINES.format(2)] = list(faults)
    published.faults[f"{FUNDING.format(1)}.CHECKSUM"] = [("status", "500")]
    report = run()
    assert statuses(report) == ["took"] * 6
    assert published.requests[KLINES.format(2)] == len(faults) + 1
    assert len(bars(catalog)) == 3 * 96


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (("corrupt", ""), "gave up after 3 attempts; checksum must be"),
        (("drop", ""), "gave up after 3 attempts; the connection failed"),
        (("status", "503"), "gave up after 3 attempts; the server answered 503"),
        (("status", "403"), "the server answered 403 Forbidden"),
        (("status", "429 3600"), "asks to wait 3600 s"),
    ],
)
def test_a_month_that_cannot_be_had_is_refused_and_leaves_no_trace(
    run, published, catalog, fault, reason
):
    published.always[KLINES.format(2)] = fault
    report = run(funding=False)
    assert statuses(report) == ["took", "refused", "took"]
    assert report.exit_code == 3
    (refused,) = report.refused
    assert refused.file == KLINES.format(2)
    assert reason in refused.reason
    february = range(parse_time("2024-02"), parse_time("2024-03") + 1)
    assert len(bars(catalog)) == 2 * 96
    assert not any(stamp in february for stamp in bars(catalog))
    # The server has recovered: only what was missing is asked for.
    del published.always[KLINES.format(2)]
    assert statuses(run(funding=False)) == ["unchanged", "took", "unchanged"]


def test_a_checksum_that_is_none_is_refused(run, published):
    published.always[f"{KLINES.format(2)}.CHECKSUM"] = ("text", "<html>log in</html>")
    (refused,) = run().refused
    assert "must start with 64 hex digits, was '<html>log in</html>'" in refused.reason


def test_a_sound_zip_with_bad_rows_is_refused_by_line(run, published, catalog, klines, candles):
    text = klines(candles(96, start="2024-02-01")).replace(",42", ",-42", 1)
    published.put(KLINES.format(2), packed("BTCUSDT-15m-2024-02.csv", text))
    (refused,) = run().refused
    assert f"{KLINES.format(2)}, line 2: open must be above 0, was -42" in refused.reason
    assert len(bars(catalog)) == 2 * 96


def test_the_latest_month_may_not_be_there_yet(run, published, catalog):
    del published.files[f"{KLINES.format(3)}.CHECKSUM"]
    del published.files[KLINES.format(3)]
    report = run(end_month="2024-05", funding=False)
    assert statuses(report) == ["took", "took", "skipped", "skipped", "skipped"]
    assert [outcome.reason for outcome in report.files[2:]] == [
        "not yet published: 2024-03",
        "not yet published: the month 2024-04 has not ended",
        "not yet published: the month 2024-05 has not ended",
    ]
    assert report.exit_code == 0
    assert not any("2024-04" in path for path in published.requests)


def test_a_hole_in_the_middle_is_no_month_to_come(run, published):
    del published.files[f"{KLINES.format(2)}.CHECKSUM"]
    report = run(funding=False)
    assert statuses(report) == ["took", "refused", "took"]
    assert "a hole in the archive: months before and after 2024-02 are there" in (
        report.files[1].reason
    )
    # It stays a hole when its neighbours are in the catalog already.
    assert statuses(run(funding=False)) == ["unchanged", "refused", "unchanged"]


def test_a_symbol_listed_later_or_gone_is_said_so(run, published):
    report = run(start_month="2023-11", funding=False)
    assert statuses(report) == ["skipped", "skipped", "took", "took", "took"]
    assert "its first month is 2024-01 (listed later?)" in report.files[0].reason
    report = run(end_month="2024-05", funding=False, now=parse_time("2025-01-01"))
    assert statuses(report)[3:] == ["skipped", "skipped"]
    assert "its last month is 2024-03 (delisted or renamed?)" in report.files[3].reason


def test_a_symbol_that_is_none_is_refused(run):
    report = run(symbols=("BITCOIN",), now=parse_time("2025-01-01"), funding=False)
    assert statuses(report) == ["refused"] * 3
    assert "is BITCOIN a symbol of this market?" in report.files[0].reason


def test_a_server_that_is_not_there_is_not_asked_for_ever(run, catalog):
    report = run(base_url="http://127.0.0.1:9", start_month="2022-01", concurrency=1)
    assert set(statuses(report)) == {"refused"}
    tried = [outcome for outcome in report.files if "gave up" in outcome.reason]
    assert len(tried) == 4
    assert "not tried: the files before it failed" in report.files[-1].reason
    assert catalog.series() == []


def test_downloads_run_side_by_side_up_to_a_limit(run, published):
    run(concurrency=2)
    assert published.most_at_once <= 2


def test_a_cache_is_used_again_and_checked(run, published, tmp_path):
    cache = tmp_path / "cache"
    run(cache=cache)
    assert (cache / KLINES.format(1)).is_file()
    before = published.downloads()
    other = Catalog.open(tmp_path / "other", create=True)
    assert statuses(run(other, cache=cache)) == ["took"] * 6
    assert published.downloads() == before
    spoiled = cache / KLINES.format(1)
    spoiled.write_bytes(spoiled.read_bytes()[:-3])
    third = Catalog.open(tmp_path / "third", create=True)
    assert statuses(run(third, cache=cache)) == ["took"] * 6
    assert published.downloads() == before + 1


def test_a_month_that_the_exchange_restates_becomes_a_vintage(run, published, catalog, month):
    run(funding=False)
    before = catalog.bars(PERP, "15m").close.tolist()
    published.put(KLINES.format(2), month(2, seed=8))
    assert statuses(run(funding=False)) == ["unchanged"] * 3
    report = run(funding=False, recheck=True)
    assert statuses(report) == ["unchanged", "took", "unchanged"]
    assert report.files[1].restated > 0
    assert catalog.bars(PERP, "15m").close.tolist() == before
    assert catalog.bars(PERP, "15m", vintage="latest").close.tolist() != before


@pytest.mark.parametrize("there", [False, True])
def test_a_fetch_that_gets_nothing_leaves_nothing(run, published, tmp_path, there):
    for number in (1, 2, 3):
        published.put(KLINES.format(number), packed("BTCUSDT-15m-2024-01.csv", "no,candles\n"))
    folder = tmp_path / "new"
    if there:
        folder.mkdir()
    report = run(Catalog.open(folder, create=True), funding=False)
    assert statuses(report) == ["refused"] * 3
    assert (folder.exists(), list(tmp_path.glob("new/*"))) == (there, [])


def test_a_ledger_does_not_outlive_its_data(run, catalog, tmp_path):
    run(funding=False)
    other = Catalog.open(tmp_path / "other", create=True)
    (other.path / ".fetch").mkdir(parents=True)
    ledger = catalog.path / ".fetch" / "committed.json"
    (other.path / ".fetch" / "committed.json").write_bytes(ledger.read_bytes())
    assert statuses(run(other, funding=False)) == ["took"] * 3


def test_spot_has_no_funding_and_its_own_folder(published, catalog, month):
    published.put("data/spot/monthly/klines/BTCUSDT/15m/BTCUSDT-15m-2024-01.zip", month(1))
    config = FetchConfig(
        symbols=("BTCUSDT",),
        interval="15m",
        start_month="2024-01",
        end_month="2024-01",
        base_url=published.base_url + "/",
        market="spot",
    )
    assert statuses(fetch(config, catalog, now_ns=NOW)) == ["took"]
    assert len(catalog.bars("BTCUSDT.BINANCE", "15m")) == 96


def test_the_plan_is_the_archives_layout():
    config = FetchConfig(
        symbols=("BTCUSDT", "ETHUSDT"), interval="15m", start_month="2023-12", end_month="2024-01"
    )
    paths = [file.path for file in plan(config)]
    assert len(paths) == 8
    assert paths[0] == "data/futures/um/monthly/klines/BTCUSDT/15m/BTCUSDT-15m-2023-12.zip"
    assert paths[7] == (
        "data/futures/um/monthly/fundingRate/ETHUSDT/ETHUSDT-fundingRate-2024-01.zip"
    )


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        ("2023-11", "2024-02", ["2023-11", "2023-12", "2024-01", "2024-02"]),
        ("2024-01", "2024-01", ["2024-01"]),
        ("2024-02", "2024-01", []),
    ],
)
def test_months_cross_the_year(first, last, found):
    assert months(first, last) == found


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"symbols": ()}, "at least 1 item"),
        (
            {"symbols": ("btc/usdt",)},
            "must be in the exchange's form, such as BTCUSDT, was 'btc/us",
        ),
        ({"symbols": ("BTCUSDT", "BTCUSDT")}, "symbols must differ"),
        ({"interval": "7m"}, "interval must be one of"),
        ({"start_month": "2024-13"}, "a month must look like 2023-01, was '2024-13'"),
        ({"start_month": "2024-05"}, "start_month must not be after end_month"),
        (
            {"base_url": "ftp://example.org"},
            "must be a web address such as https://.*was 'ftp://exa",
        ),
        ({"base_url": "example.org/data"}, "base_url must be a web address"),
        ({"base_url": "https://"}, "base_url must be a web address"),
        ({"base_url": "file:///etc"}, "base_url must be a web address"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"speed": 9}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, complaint):
    good = {
        "symbols": ("BTCUSDT",),
        "interval": "15m",
        "start_month": "2024-01",
        "end_month": "2024-02",
    }
    with pytest.raises(ValidationError, match=complaint):
        FetchConfig.model_validate(good | changes)


def test_a_full_disk_is_told_and_changes_nothing(run, catalog, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("adapters.http.os.fsync", full)
    report = run(funding=False)
    assert statuses(report) == ["refused"] * 3
    assert "storing it failed: no space left on device" in report.files[0].reason
    monkeypatch.undo()
    assert catalog.series() == []
    left = [path.name for path in catalog.path.rglob("*") if path.is_file()]
    assert not any(name.endswith((".zip", ".part")) for name in left)


def test_a_damaged_ledger_says_what_to_do(run, catalog):
    run(funding=False, end_month="2024-01")
    (catalog.path / ".fetch" / "committed.json").write_text('{"data": ')
    with pytest.raises(IntegrityError, match=r"committed\.json .* must be JSON, .*; delete it"):
        run(funding=False)


def test_an_interrupted_fetch_does_not_wait_for_its_downloads(published, catalog):
    """Without `cancel`, a thread that waits out a Retry-After would hold up the whole process."""

    class StoppedError(Exception):
        pass

    def stop(stage, done, total):
        if done == 1:
            raise StoppedError

    published.always[KLINES.format(2)] = ("status", "503 50")
    config = FetchConfig(
        symbols=("BTCUSDT",),
        interval="15m",
        start_month="2024-01",
        end_month="2024-02",
        base_url=published.base_url,
        funding=False,
        concurrency=2,
    )
    started = time.perf_counter()
    with pytest.raises(StoppedError):
        fetch(config, catalog, now_ns=NOW, progress=stop)
    assert time.perf_counter() - started < 20.0
    assert len(bars(catalog)) == 96


def test_the_command_fetches_says_what_is_wrong_and_repeats(published, tmp_path, monkeypatch):
    # How long it waits before it tries again is another test's.
    monkeypatch.setattr("adapters.http.HttpClient._wait", lambda *_: 0.01)
    folder = tmp_path / "fetched"
    command = ["data", "fetch", "--symbols", "BTCUSDT", "--interval", "15m", "--json"]
    command += ["--from", "2024-01", "--to", "2024-03", "--catalog", str(folder)]
    command += ["--base-url", published.base_url]
    good = published.files[KLINES.format(2)]
    published.files[KLINES.format(2)] = good[:-1] + bytes([good[-1] ^ 1])
    damaged = CliRunner().invoke(app, command)
    assert damaged.exit_code == DataError.exit_code
    assert "checksum" in damaged.stdout
    published.files[KLINES.format(2)] = good
    mended = CliRunner().invoke(app, command)
    assert mended.exit_code == 0, mended.output
    assert len(Catalog.open(folder).bars(PERP, "15m")) == 3 * 96
    assert len(Catalog.open(folder).funding(PERP)) == 9
    again = CliRunner().invoke(app, command)
    assert json.loads(again.stdout)["added"] == 0
