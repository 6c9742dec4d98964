from __future__ import annotations

import numpy as np
import pytest

from adapters import coinmetrics
from adapters.coinmetrics import UNITS, VINTAGE_SPACING_DAYS
from adapters.options import ImportOptions
from adapters.sources import open_source
from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, parse_time

HEADER = "time,AdrActCnt,PriceUSD,AssetEODCompletionTime"


def read(path, options):
    source = open_source(path)
    assert coinmetrics.matches(source)
    return coinmetrics.read(source, options)


def records(batch, metric):
    """Return (ts_event, ts_init, value) of one metric."""
    rows = batch.columns["metric"] == metric
    return [batch.columns[name][rows].tolist() for name in ("ts_event", "ts_init", "value")]


def test_a_day_is_known_when_the_vendor_had_completed_it(text_file, options):
    completed = parse_time("2024-01-02T05:12:33") // 10**9
    text = f"{HEADER}\n2024-01-01,10,44049.5,{completed}.0\n2024-01-02,11,45000,\n"
    (batch,) = read(text_file("coinmetrics_btc.csv", text), options)
    assert (batch.kind, batch.series, batch.vintage) == ("onchain", "coinmetrics.btc", "")
    event, init, value = records(batch, "PriceUSD")
    assert event == [parse_time("2024-01-02"), parse_time("2024-01-03")]
    # The second day has no stamp: its end and the documented delay of 12 hours.
    assert init == [completed * 10**9, parse_time("2024-01-03T12:00")]
    assert value == [44049.5, 45000.0]
    assert set(batch.columns["unit"][batch.columns["metric"] == "AdrActCnt"]) == {"count"}
    assert set(batch.columns["unit"][batch.columns["metric"] == "PriceUSD"]) == {"USD"}


def test_a_part_of_a_second_counts_as_the_whole(text_file, options):
    completed = parse_time("2024-01-02T05:12:33") // 10**9
    text = f"{HEADER}\n2024-01-01,10,1,{completed}.25\n"
    (batch,) = read(text_file("coinmetrics_btc.csv", text), options)
    assert batch.columns["ts_init"].tolist() == [(completed + 1) * 10**9] * 2


def test_empty_fields_make_no_records_and_lines_follow_the_rows(text_file, options):
    text = f"{HEADER}\n2024-01-01,10,,\n2024-01-02,,2,\n2024-01-03,30,3,\n"
    (batch,) = read(text_file("coinmetrics_btc.csv", text), options)
    assert list(zip(batch.columns["metric"], batch.lines, strict=True)) == [
        ("AdrActCnt", 2),
        ("PriceUSD", 3),
        ("AdrActCnt", 4),
        ("PriceUSD", 4),
    ]


def test_what_is_not_the_vendors_is_left_out_and_named(text_file, options):
    text = "time,PriceUSD,TxCnt,NVT_Tx_Basis,FearGreedValue,NewThingCnt,ReferenceRate\n"
    text += "2024-01-01,1,2,3,4,5,\n"
    (batch,) = read(text_file("coinmetrics_btc.csv", text), options)
    assert sorted(set(batch.columns["metric"])) == ["NewThingCnt", "PriceUSD", "TxCnt"]
    assert batch.notes == (
        "columns left out, not the vendor's metrics: NVT_Tx_Basis, FearGreedValue",
        "columns without a value: ReferenceRate",
    )


def test_assets_of_one_file_become_series(text_file, options):
    text = "time,asset,PriceUSD,TxCnt\n2024-01-01,btc,1,2\n2024-01-01,eth,3,4\n2024-01-02,btc,5,6\n"
    batches = read(text_file("anything.csv", text), options)
    assert [batch.series for batch in batches] == ["coinmetrics.btc", "coinmetrics.eth"]
    assert records(batches[0], "PriceUSD")[2] == [1.0, 5.0]
    assert batches[1].lines.tolist() == [3, 3]


def test_a_later_vintage_is_known_later(text_file, options):
    text = "time,PriceUSD,TxCnt\n2024-01-01,1,2\n2024-01-02,3,4\n"
    (first,) = read(text_file("coinmetrics_btc.csv", text), options)
    (second,) = read(text_file("coinmetrics_btc_vintage2.csv", text), options)
    assert (first.vintage, first.known_at) == ("", None)
    end = parse_time("2024-01-03")
    assert second.known_at == end + VINTAGE_SPACING_DAYS * NS_PER_DAY
    assert second.vintage == "2024-04-04"
    assert any("count as known from 2024-04-04" in note for note in second.notes)
    told = ImportOptions(now_ns=options.now_ns, known_at_ns=parse_time("2024-05-06"))
    (stated,) = read(text_file("coinmetrics_btc_vintage2.csv", text), told)
    assert (stated.vintage, stated.known_at) == ("2024-05-06", parse_time("2024-05-06"))


def test_who_holds_a_day_knows_it(text_file):
    """The assumed delay cannot put a record that is in our hands into the future."""
    now = parse_time("2024-01-02T03:00")
    text = "time,PriceUSD,TxCnt\n2023-12-31,1,2\n2024-01-01,1,2\n"
    (batch,) = read(text_file("coinmetrics_btc.csv", text), ImportOptions(now_ns=now))
    assert sorted(set(batch.columns["ts_init"].tolist())) == [parse_time("2024-01-01T12:00"), now]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("2024-01-01,ten,1,", "line 3: AdrActCnt must be a finite number, was 'ten'"),
        ("2024-01-01,inf,1,", "line 3: AdrActCnt must be a finite number, was 'inf'"),
        ("yesterday,1,1,", "line 3: time must be an ISO 8601 time .*, was 'yesterday'"),
        ("2024-01-01 06:00,1,1,", "line 3: time must be the midnight at which a day starts"),
        ("2023-12-31,1,1,", "line 3: a day must come once, .*again, as line 2"),
        ("2023-12-30,1,1,", "line 3: a day must be in time order"),
        ("2025-07-01,1,1,", "line 3: the end of a day must not lie in the future"),
        ("2024-01-01,1,1,1704067201", "must not be before the end of the day described"),
        ("2024-01-01,1,1,1704067201000", "AssetEODCompletionTime must be Unix seconds"),
        ("2024-01-01,1", "line 3: must have 4 fields, had 2"),
    ],
)
def test_bad_rows_are_refused_by_line(text_file, options, row, complaint):
    path = text_file("coinmetrics_btc.csv", f"{HEADER}\n2023-12-31,1,1,\n{row}\n")
    with pytest.raises(DataError, match=complaint):
        read(path, options)


def test_an_unknown_asset_is_refused(text_file, options):
    path = text_file("export.csv", f"{HEADER}\n2023-12-31,1,1,\n")
    with pytest.raises(DataError, match="the asset must stand in a column `asset` or in the name"):
        read(path, options)


def etherscan(path, options):
    source = open_source(path)
    assert coinmetrics.matches_etherscan(source)
    return coinmetrics.read_etherscan(source, options)


def test_an_etherscan_export_is_known_after_its_day(text_file, options):
    text = "Date(UTC),UnixTimeStamp,Value\n1/1/2024,1704067200,7\n1/2/2024,1704153600,8\n"
    (batch,) = etherscan(text_file("etherscan_export-TxGrowth.csv", text), options)
    assert batch.series == "etherscan.eth"
    assert batch.columns["metric"].tolist() == ["TxCnt", "TxCnt"]
    ends = [parse_time("2024-01-02"), parse_time("2024-01-03")]
    assert batch.columns["ts_event"].tolist() == ends
    assert batch.columns["ts_init"].tolist() == [end + 12 * NS_PER_HOUR for end in ends]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("chart.csv", "Value\n1/1/2024,1704067200,7", "the name must say which chart it is"),
        (
            "export-GasUsed.csv",
            "Value\n1/1/2024,1704067201,7",
            "line 2: UnixTimeStamp must be a midnight in Unix seconds, was 1704067201",
        ),
        ("export-GasUsed.csv", "Amount\n1/1/2024,1704067200,7", "missing: Value"),
        (
            "export-GasUsed.csv",
            "Value\n1/1/2024,1704067200,much",
            "line 2: Value must be a finite number, was 'much'",
        ),
    ],
)
def test_bad_etherscan_exports_are_refused(text_file, options, name, text, complaint):
    path = text_file(name, f"Date(UTC),UnixTimeStamp,{text}\n")
    with pytest.raises(DataError, match=complaint):
        etherscan(path, options)


def test_the_price_of_the_first_of_january_2024_describes_that_days_end(shared_data, options):
    (batch,) = read(shared_data / "onchain/coinmetrics_btc.csv", options)
    event, init, value = records(batch, "PriceUSD")
    at = event.index(parse_time("2024-01-02"))
    assert value[at] == pytest.approx(44_049, abs=1)
    assert parse_time("2024-01-02T02:00") < init[at] < parse_time("2024-01-03")
    assert set(batch.columns["metric"]) <= set(UNITS)
    assert np.all(batch.columns["ts_init"] > batch.columns["ts_event"])


def test_the_restated_pair_differs_in_flows_and_agrees_in_prices(shared_data, options):
    later = ImportOptions(now_ns=parse_time("2026-01-01"))
    (first,) = read(shared_data / "onchain/coinmetrics_btc.csv", later)
    (second,) = read(shared_data / "onchain/coinmetrics_btc_vintage2.csv", later)
    assert first.series == second.series
    # "Downloaded three months later", says the README; both end with 2025-05-17.
    assert (first.vintage, second.vintage) == ("", "2025-08-18")
    shares = {}
    for metric in ("FlowInExUSD", "PriceUSD", "AdrActCnt"):
        event, _, value = records(first, metric)
        before = dict(zip(event, value, strict=True))
        event, _, value = records(second, metric)
        shares[metric] = np.mean([before[day] != v for day, v in zip(event, value, strict=True)])
    assert shares["FlowInExUSD"] > 0.95
    assert shares["PriceUSD"] == shares["AdrActCnt"] == 0.0
