"""Files and folders into a catalog: what is taken, what is refused, and that nothing else moves."""

from __future__ import annotations

import errno
import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest

from adapters.generic import GenericColumns
from adapters.importing import IMPORTERS, detect, import_path
from adapters.options import ImportOptions
from adapters.sources import open_source
from catalog.errors import ConfigError, DataError
from catalog.store import Catalog
from catalog.timestamps import NS_PER_HOUR, interval_ns, parse_time

PERP = "BTCUSDT-PERP.BINANCE"


def contents(catalog):
    """Return everything that a reader can see of a catalog."""
    return [
        (info.kind, info.series, info.start, info.end, info.rows, info.vintages)
        for info in catalog.series()
    ]


def files_of(catalog):
    """Return the catalog's files and their bytes."""
    return {
        path.relative_to(catalog.path).as_posix(): path.read_bytes()
        for path in sorted(catalog.path.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def only(report):
    (outcome,) = report.files
    return outcome


@pytest.fixture
def inbox(feather, candles, text_file, klines, settlements):
    """A folder with good files of several kinds, a bad one and things that are no data."""
    feather(candles(40))
    feather(candles(30, seed=3), "ETH_USDT-15m.feather")
    text_file("um/BTCUSDT-fundingRate-2024-01.csv", settlements())
    text_file("fear_greed.csv", "date,fear_greed_index\n2024-01-01,65\n")
    bad = klines(candles(8, seed=5)).replace(",42", ",oops", 1)
    text_file("um/SOLUSDT-15m-2024-01.csv", bad)
    text_file("README.md", "# about\n")
    text_file(".hidden.csv", "date,fear_greed_index\n2024-01-02,65\n")
    return text_file("phrases.csv", 'positive,"Good, they say."\nneutral,Fine.\n').parent


def test_one_bad_file_does_not_stop_the_others(inbox, catalog, options):
    report = import_path(inbox, catalog, options=options)
    assert {outcome.file: outcome.status for outcome in report.files} == {
        "BTC_USDT_USDT-15m-futures.feather": "took",
        "ETH_USDT-15m.feather": "took",
        "README.md": "skipped",
        "fear_greed.csv": "took",
        "phrases.csv": "skipped",
        "um/BTCUSDT-fundingRate-2024-01.csv": "took",
        "um/SOLUSDT-15m-2024-01.csv": "refused",
    }
    assert not report.ok
    assert report.exit_code == 3
    assert report.added == 40 + 30 + 1 + 9
    (refused,) = report.refused
    assert refused.reason.startswith("um/SOLUSDT-15m-2024-01.csv, line 2: open must be a finite")
    assert refused.importer == "binance archive"
    assert {info.series for info in catalog.series()} == {
        "BTCUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL",
        "ETHUSDT.BINANCE-15-MINUTE-LAST-EXTERNAL",
        "fear_greed",
        PERP,
    }


def test_a_second_import_adds_nothing(inbox, catalog, options):
    import_path(inbox, catalog, options=options)
    before, files = contents(catalog), files_of(catalog)
    report = import_path(inbox, catalog, options=options)
    assert report.added == 0
    assert report.counts() == {"took": 0, "unchanged": 4, "used": 0, "skipped": 2, "refused": 1}
    assert contents(catalog) == before
    assert files_of(catalog) == files


def test_a_stopped_import_goes_on_where_it_was(inbox, tmp_path, options):
    class StoppedError(Exception):
        pass

    def stop_after_three(stage, done, total):
        if done == 3:
            raise StoppedError

    catalog = Catalog.open(tmp_path / "stopped", create=True)
    with pytest.raises(StoppedError):
        import_path(inbox, catalog, options=options, progress=stop_after_three)
    assert len(Catalog.open(tmp_path / "stopped").series()) == 2
    report = import_path(inbox, catalog, options=options)
    assert report.counts() == {"took": 2, "unchanged": 2, "used": 0, "skipped": 2, "refused": 1}
    whole = Catalog.open(tmp_path / "whole", create=True)
    import_path(inbox, whole, options=options)
    assert contents(catalog) == contents(whole)


def test_progress_counts_the_files(inbox, catalog, options):
    seen = []
    import_path(inbox, catalog, options=options, progress=lambda *state: seen.append(state))
    assert seen == [("import", done, 7) for done in range(8)]


def test_the_catalog_is_not_imported_into_itself(inbox, options, candles):
    catalog = Catalog.open(inbox / "catalog", create=True)
    import_path(inbox, catalog, options=options)
    report = import_path(inbox, catalog, options=options)
    assert not any(outcome.file.startswith("catalog/") for outcome in report.files)


def test_an_import_that_takes_nothing_leaves_no_folder(text_file, options, tmp_path):
    path = text_file("um/BTCUSDT-15m-2024-01.csv", "no,candles\n")
    catalog = Catalog.open(tmp_path / "new", create=True)
    report = import_path(path.parent, catalog, options=options)
    assert not any(file.status == "took" for file in report.files)
    assert not (tmp_path / "new").exists()
    assert catalog.series() == []


@pytest.mark.parametrize("hidden", [False, True])
def test_a_folder_without_files_is_refused(tmp_path, catalog, hidden):
    (tmp_path / "inbox" / "deep").mkdir(parents=True)
    if hidden:
        (tmp_path / "inbox" / ".notes").write_text("x")
    with pytest.raises(DataError, match=r"there is no file to import in .*inbox") as caught:
        import_path(tmp_path / "inbox", catalog)
    assert caught.value.exit_code == 3
    assert not catalog.path.exists()


@pytest.fixture
def listed(inbox):
    """The inbox with a list of checksums, whose folder is `um`."""
    names = sorted(path.name for path in (inbox / "um").iterdir())
    lines = [
        f"{hashlib.sha256((inbox / 'um' / name).read_bytes()).hexdigest()}  {name}\n"
        for name in names
    ]
    (inbox / "um" / "SHA256SUMS").write_text("".join(lines))
    return inbox


def test_a_list_of_checksums_is_used(listed, catalog, options):
    report = import_path(listed, catalog, options=options)
    by_file = {file.file: file for file in report.files}
    assert by_file["um/SHA256SUMS"].status == "used"
    assert by_file["um/SHA256SUMS"].notes == ("2 files compared with it",)
    assert by_file["um/BTCUSDT-fundingRate-2024-01.csv"].status == "took"
    assert "4 took, 1 used, 2 skipped, 1 refused" in str(report)


def test_a_file_that_differs_from_the_list_is_refused(listed, catalog, options):
    path = listed / "um" / "BTCUSDT-fundingRate-2024-01.csv"
    path.write_text(path.read_text().replace("0.00010000", "0.00020000"))
    report = import_path(listed, catalog, options=options)
    reasons = {file.file: file.reason for file in report.refused}
    name = "um/BTCUSDT-fundingRate-2024-01.csv"
    assert f"{name}: differs from SHA256SUMS: its SHA-256 must be" in reasons[name]
    assert catalog.series("funding") == []
    # Named by itself, the file is what was meant.
    assert import_path(path, catalog, options=options).ok


def test_a_listed_file_that_is_not_there_is_told(listed, catalog, options):
    (listed / "um" / "BTCUSDT-fundingRate-2024-01.csv").unlink()
    report = import_path(listed, catalog, options=options)
    assert "listed but not there: um/BTCUSDT-fundingRate-2024-01.csv" in str(report)


@pytest.mark.parametrize("content", ["what is this\n", "abc  x.csv\n", "\udcff\n"])
def test_a_list_that_is_none_is_refused(listed, catalog, options, content):
    (listed / "um" / "SHA256SUMS").write_bytes(content.encode(errors="surrogateescape"))
    report = import_path(listed, catalog, options=options)
    assert any("um/SHA256SUMS" in file.reason for file in report.refused)


def test_the_report_speaks_to_people_and_programs(inbox, catalog, options):
    report = import_path(inbox, catalog, options=options)
    content = json.loads(report.to_json())
    assert content["ok"] is False
    assert content["counts"] == {"took": 4, "unchanged": 0, "used": 0, "skipped": 2, "refused": 1}
    assert content["added"] == 80
    by_file = {entry["file"]: entry for entry in content["files"]}
    assert by_file["um/BTCUSDT-fundingRate-2024-01.csv"]["series"] == [PERP]
    text = str(report)
    assert "line 2: open must be a finite number, was 'oops" in text
    assert "labelled sentences without a time" in text
    assert "4 took, 2 skipped, 1 refused; 80 new records" in text
    assert str(inbox) not in text


def test_stored_bars_are_the_files(feather, candles, catalog, options):
    frame = candles(40)
    import_path(feather(frame), catalog, options=options)
    bars = catalog.bars(PERP, "15m")
    opened = frame["date"].to_numpy("datetime64[ns]").astype(np.int64)
    assert bars.ts_init.tolist() == (opened + interval_ns("15m")).tolist()
    for name in ("open", "high", "low", "close", "volume"):
        # The engine's prices are fixed-point: their float differs in the last bit at most.
        assert getattr(bars, name) == pytest.approx(frame[name].to_numpy(), rel=3e-16)


def test_a_settlement_from_two_sources_is_one_payment(
    feather, text_file, settlements, catalog, options
):
    """Freqtrade cuts the stamp to the hour, the archive keeps some milliseconds."""
    stamps = parse_time("2024-01-01") + np.arange(9) * 8 * NS_PER_HOUR
    frame = pd.DataFrame(
        {
            "date": pd.to_datetime(stamps, utc=True).as_unit("ns"),
            "open": [(row - 3) / 10_000 for row in range(9)],
            **dict.fromkeys(("high", "low", "close", "volume"), 0.0),
        }
    )
    import_path(feather(frame, "BTC_USDT_USDT-8h-funding_rate.feather"), catalog, options=options)
    path = text_file("BTCUSDT-fundingRate-2024-01.csv", settlements(late_ms=(0, 3, 11)))
    assert only(import_path(path, catalog, options=options)).status == "unchanged"
    assert catalog.funding(PERP).ts_init.tolist() == stamps.tolist()
    assert catalog.restated("funding", PERP) == []


def test_archive_and_freqtrade_candles_are_the_same_records(
    feather, text_file, klines, candles, catalog, options
):
    frame = candles(40)
    import_path(feather(frame), catalog, options=options)
    path = text_file("BTCUSDT-15m-2024-01.csv", klines(frame))
    outcome = only(import_path(path, catalog, options=options))
    assert (outcome.status, outcome.rows, outcome.added) == ("took", 80, 40)  # the flow is new
    assert len(catalog.bars(PERP, "15m")) == 40
    assert len(catalog.bar_flow(PERP, "15m").ts_init) == 40


def test_a_restated_month_with_equal_stamps_is_kept_as_a_vintage(
    text_file, klines, candles, catalog, options
):
    frame = candles(40)
    name = "BTCUSDT-15m-2024-01.csv"
    import_path(text_file(name, klines(frame)), catalog, options=options)
    before = catalog.bars(PERP, "15m")
    changed = frame.copy()
    changed.loc[20, "volume"] += 1.0
    report = import_path(text_file(name, klines(changed)), catalog, options=options)
    assert "2 records restated, kept as a vintage" in str(report)
    outcome = only(report)
    assert (outcome.status, outcome.added) == ("took", 0)
    assert outcome.restated == 2  # the bar and its flow
    after = catalog.bars(PERP, "15m")
    assert after.volume.tolist() == before.volume.tolist()
    (first, *_) = catalog.restated("bars", f"{PERP}-15-MINUTE-LAST-EXTERNAL")
    assert first.rows == 1


def test_a_folder_whose_files_disagree_settles_and_says_so(
    text_file, klines, candles, catalog, options
):
    frame = candles(40)
    changed = frame.assign(volume=frame["volume"] + 1.0)
    name = "BTCUSDT-15m-2024-01.csv"
    text_file(f"january/{name}", klines(frame))
    inbox = text_file(f"redone/{name}", klines(changed)).parent.parent
    first = import_path(inbox, catalog, options=options)
    assert [(file.added, file.restated) for file in first.files] == [(80, 0), (0, 80)]
    again = import_path(inbox, catalog, options=options)
    assert [file.status for file in again.files] == ["unchanged", "unchanged"]
    assert "80 records have been restated since this file said the same before" in str(again)


def test_the_restated_pair_lives_side_by_side(shared_data, catalog):
    folder = shared_data / "onchain"
    options = ImportOptions(now_ns=parse_time("2026-01-01"))
    for name in ("coinmetrics_btc.csv", "coinmetrics_btc_vintage2.csv"):
        assert only(import_path(folder / name, catalog, options=options)).status == "took"
    day = parse_time("2024-06-01")
    known = [
        catalog.onchain("coinmetrics.btc", "FlowInExUSD", None, day, as_of=moment).value[-1]
        for moment in (parse_time("2024-07-01"), parse_time("2025-09-01"))
    ]
    table = pd.read_csv(folder / "coinmetrics_btc.csv", index_col="time")
    restated = pd.read_csv(folder / "coinmetrics_btc_vintage2.csv", index_col="time")
    assert known == [
        table.loc["2024-05-30", "FlowInExUSD"],
        restated.loc["2024-05-30", "FlowInExUSD"],
    ]


# --- bad input: a clear message, and nothing changed -------------------------------------------


def drop_column(text):
    rows = [line.split(",") for line in text.splitlines()]
    at = rows[0].index("low")
    return "\n".join(",".join(row[:at] + row[at + 1 :]) for row in rows)


def set_field(line, field, value):
    def change(text):
        rows = [row.split(",") for row in text.splitlines()]
        rows[line - 1][rows[0].index(field)] = value
        return "\n".join(",".join(row) for row in rows)

    return change


def swap(one, other):
    def change(text):
        rows = text.splitlines()
        rows[one - 1], rows[other - 1] = rows[other - 1], rows[one - 1]
        return "\n".join(rows)

    return change


def repeat(line):
    def change(text):
        rows = text.splitlines()
        return "\n".join([*rows[:line], rows[line - 1], *rows[line:]])

    return change


NAME = "BTCUSDT-15m-2024-02.csv"
BAD_TEXTS = [
    (drop_column, "must have the columns .*; missing: low, present: open_time, open, high, close"),
    (set_field(7, "open", "n/a"), f"{NAME}, line 7: open must be a finite number, was 'n/a'"),
    (set_field(7, "high", "1.0"), f"{NAME}, line 7: high must not be below low, was 1.0 < "),
    (set_field(7, "close", "0"), f"{NAME}, line 7: close must be above 0, was 0"),
    (set_field(7, "low", "-5"), f"{NAME}, line 7: low must be above 0, was -5"),
    (set_field(7, "volume", "-1"), f"{NAME}, line 7: volume must be 0 or more, was -1"),
    (set_field(7, "count", "3.5"), f"{NAME}, line 7: count must be a whole number, was '3.5'"),
    (set_field(7, "open_time", "noon"), f"{NAME}, line 7: open_time must be a whole number"),
    (set_field(7, "open_time", "1706750000"), f"{NAME}, line 7: a candle must be in time order"),
    (repeat(7), f"{NAME}, line 8: a candle must come once, was 2024-02-01 01:15:00 UTC again, as"),
    (swap(7, 8), f"{NAME}, line 8: a candle must be in time order, was 2024-02-01 01:15:00 UTC"),
    (lambda text: text[:-25], f"{NAME}, line 41: must have 12 fields, had"),
    (lambda text: text.splitlines()[0] + "\n", f"{NAME}: must hold at least one record"),
    (lambda text: "", f"{NAME}: must be a whole file, was damaged, cut short or empty"),
]


@pytest.fixture
def filled(catalog, feather, candles, options):
    """A catalog that holds a good month already."""
    import_path(feather(candles(40), folder="good"), catalog, options=options)
    return catalog


def refused(path, catalog, options, complaint):
    """Import what must be refused, and check that the catalog's bytes did not move."""
    before = files_of(catalog)
    report = import_path(path, catalog, options=options)
    assert report.exit_code == 3
    assert files_of(catalog) == before
    reason = only(report).reason
    assert re.search(complaint, reason), f"{reason!r} does not match {complaint!r}"


@pytest.mark.parametrize(("spoil", "complaint"), BAD_TEXTS)
def test_a_bad_text_file_changes_nothing(
    text_file, klines, candles, filled, options, spoil, complaint
):
    path = text_file(NAME, spoil(klines(candles(40, start="2024-02-01"))))
    refused(path, filled, options, complaint)


def spoiled(frame, **changes):
    frame = frame.copy()
    for name, (row, value) in changes.items():
        frame.loc[row, name] = value
    return frame


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: spoiled(f, high=(4, 1.0)), "row 5: high must not be below low, was 1.0 < "),
        (lambda f: spoiled(f, open=(4, 0.0)), "row 5: open must be above 0, was 0"),
        (lambda f: spoiled(f, low=(4, -2.0)), "row 5: low must be above 0, was -2"),
        (lambda f: spoiled(f, close=(4, np.nan)), "row 5: close must be a number, was empty"),
        (lambda f: spoiled(f, volume=(4, np.inf)), "row 5: volume must be 0 or more, was inf"),
        (lambda f: f.drop(columns="low"), "missing: low, present: date, open, high, close, volume"),
        (lambda f: f.astype({"close": str}).replace(f["close"][4].astype(str), "n/a"), "row 5: "),
        (lambda f: pd.concat([f[:6], f[5:]], ignore_index=True), "row 7: a candle must come once"),
        (lambda f: f.sample(frac=1.0, random_state=1, ignore_index=True), "must be in time order"),
        (lambda f: f[:0], "must hold at least one record"),
        (lambda f: f.assign(date=f["date"].astype(str)), "date must be a time on every row"),
        (
            lambda f: f.assign(date=f["date"] + pd.Timedelta(days=800)),
            "row 1: the close of a candle must not lie in the future",
        ),
    ],
)
def test_a_bad_feather_file_changes_nothing(feather, candles, filled, options, spoil, complaint):
    path = feather(spoil(candles(40, start="2024-02-01")))
    refused(path, filled, options, complaint)


@pytest.mark.parametrize("kept", [7, 400, 2_000])
def test_a_feather_file_cut_short_changes_nothing(feather, candles, filled, options, kept):
    path = feather(candles(400, start="2024-02-01"))
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, filled, options, "futures.feather: must be a whole file, was damaged, cut short")


def test_a_zip_cut_short_changes_nothing(zipped, klines, candles, filled, options, tmp_path):
    path = zipped(tmp_path / "BTCUSDT-15m-2024-02.zip", klines(candles(400, start="2024-02-01")))
    path.write_bytes(path.read_bytes()[:3_000])
    refused(path, filled, options, "BTCUSDT-15m-2024-02.zip: must be a whole file, was damaged")


def test_a_zip_with_one_byte_changed_changes_nothing(
    zipped, klines, candles, filled, options, tmp_path
):
    path = zipped(tmp_path / "BTCUSDT-15m-2024-02.zip", klines(candles(400, start="2024-02-01")))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refused(path, filled, options, "BTCUSDT-15m-2024-02.zip")


def test_an_unknown_interval_changes_nothing(feather, candles, filled, options):
    path = feather(candles(4, start="2024-02-01"), "BTC_USDT_USDT-17m-futures.feather")
    refused(path, filled, options, "interval must be one of 1m, 3m, .*, was '17m'")


def test_a_single_unknown_file_is_refused_and_says_what_to_do(text_file, catalog, options):
    path = text_file("table.csv", "alpha,beta\n1,2\n")
    refused(path, catalog, options, "no importer knows these columns: alpha, beta; a column map")
    refused(text_file("x.md", "# x"), catalog, options, "x.md: not a table")


def test_a_path_that_is_not_there_is_told(catalog, tmp_path):
    with pytest.raises(ConfigError, match=r"import path must be a file or a folder, was .*absent"):
        import_path(tmp_path / "absent", catalog)


def test_a_file_that_may_not_be_read_is_refused(text_file, catalog, options, monkeypatch):
    path = text_file("fg.csv", "date,fear_greed_index\n2024-01-01,65\n")

    def denied(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "open", denied)
    report = import_path(path, catalog, options=options)
    assert only(report).reason == (
        "fg.csv: must be a whole file, was damaged, cut short or empty (permission denied)"
    )


def test_a_column_map_reads_what_nobody_knows(text_file, catalog, options):
    path = text_file("table.csv", "when,how\n2024-01-01,3\n2024-01-02,4\n")
    columns = GenericColumns.model_validate(
        {
            "kind": "index",
            "series": "mood",
            "unit": "points",
            "time": {"column": "when", "means": "close"},
            "columns": {"close": "how"},
        }
    )
    outcome = only(import_path(path, catalog, options=options, columns=columns))
    assert (outcome.status, outcome.importer, outcome.series) == ("took", "column map", ("mood",))
    assert catalog.index("mood").value.tolist() == [3.0, 4.0]


# --- the real data ------------------------------------------------------------------------------

EXPECTED = {
    "bars": "freqtrade",
    "funding": "freqtrade",
    "news": "news",
    "volatility": "dvol",
}
SKIPPED = {
    "README.md",
    "news/labelled/financial_phrasebank.csv",
    "ticks/btcusdt-quotes.parquet",
    "ticks/btcusdt-trades.parquet",
}


def test_every_real_file_is_told_by_one_importer(shared_data):
    for path in sorted(path for path in shared_data.rglob("*") if path.is_file()):
        name = path.relative_to(shared_data).as_posix()
        source = open_source(path)
        matching = [importer.name for importer in IMPORTERS if importer.matches(source)]
        if name in SKIPPED | {"SHA256SUMS"}:
            assert matching == []
            assert detect(path) is None
            continue
        (found,) = matching
        assert detect(path).name == found
        assert found == EXPECTED.get(name.split("/")[0], found)


def test_the_name_is_asked_for_nothing_but_the_symbol(shared_data, tmp_path):
    """A renamed file is still told by its content."""
    for number, path in enumerate(sorted(p for p in shared_data.rglob("*.*") if p.is_file())):
        if path.suffix in {".md", ""} or path.suffix == ".gz":
            continue
        renamed = tmp_path / f"{number}{path.suffix}"
        renamed.symlink_to(path)
        before, after = detect(path), detect(renamed)
        assert (before and before.name) == (after and after.name)


@pytest.mark.slow
def test_all_real_data_in_under_a_minute(shared_data, catalog):
    report = import_path(shared_data, catalog)
    assert report.ok
    assert report.counts() == {"took": 36, "unchanged": 0, "used": 1, "skipped": 4, "refused": 0}
    assert {outcome.file for outcome in report.files if outcome.status == "skipped"} == SKIPPED
    assert report.seconds < 60.0
    again = import_path(shared_data, catalog)
    assert again.added == 0
    assert again.counts()["unchanged"] == 36
