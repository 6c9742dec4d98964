"""A vendor that returns to an earlier value says something new; a file imported again does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY, parse_time
from tests.catalog.builders import BTC, BTC_15M, START, bars, onchain

LATER = parse_time("2025-06-01")
SERIES = "coinmetrics.btc"


def flow(value: float, source: str = "export.csv", **fields: Any) -> Batch:
    return onchain({"Flow": [7.0, value, 9.0]}, source=source, **fields)


def shown(catalog: Catalog, **how: Any) -> float:
    return float(catalog.onchain(SERIES, "Flow", **how).value[1])


def test_a_return_to_an_earlier_value_is_known_from_its_import(catalog: Catalog) -> None:
    for day, value in enumerate((1.0, 2.0, 1.0)):
        (result,) = catalog.ingest([flow(value)], now=LATER + day * NS_PER_DAY).results
        assert (result.restated, result.superseded) == (int(day > 0), 0)
    assert shown(catalog) == 1.0
    assert shown(catalog, as_of=LATER + NS_PER_DAY - 1) == 1.0
    assert shown(catalog, as_of=LATER + NS_PER_DAY) == 2.0
    assert shown(catalog, as_of=LATER + 2 * NS_PER_DAY - 1) == 2.0
    assert shown(catalog, as_of=LATER + 2 * NS_PER_DAY) == 1.0
    assert shown(catalog, vintage="latest") == 1.0
    assert [change.rows for change in catalog.restated("onchain", SERIES)] == [1, 1]


def test_the_same_file_again_adds_nothing_after_a_return(catalog: Catalog) -> None:
    for value in (1.0, 2.0, 1.0):
        catalog.ingest([flow(value)])
    again = catalog.ingest([flow(1.0)])
    assert (again.commit, again.results[0].known, again.results[0].superseded) == (None, 3, 0)


@pytest.mark.parametrize("prefix", ["", "downloads/"])
def test_importing_two_that_disagree_in_turn_settles_and_says_so(
    catalog: Catalog, prefix: str
) -> None:
    catalog.ingest([flow(1.0, "january.csv")])
    catalog.ingest([flow(2.0, "february.csv")])
    (old,) = catalog.ingest([flow(1.0, f"{prefix}january.csv")]).results
    assert (old.restated, old.superseded, old.known) == (0, 1, 3)
    again = catalog.ingest([flow(2.0, f"{prefix}february.csv")])
    assert (again.commit, again.results[0].superseded) == (None, 0)
    assert shown(catalog, vintage="latest") == 2.0


def test_files_of_one_name_in_two_folders_settle_too(catalog: Catalog) -> None:
    batches = [flow(1.0, "a/export.csv"), flow(2.0, "b/export.csv")]
    for batch in batches:
        assert catalog.ingest([batch]).commit is not None
    for batch in batches * 2:
        assert catalog.ingest([batch]).commit is None


def test_a_new_download_of_an_old_value_is_a_return(catalog: Catalog) -> None:
    for source, value in (("january.csv", 1.0), ("february.csv", 2.0), ("march.csv", 1.0)):
        catalog.ingest([flow(value, source)])
    assert shown(catalog, vintage="latest") == 1.0


def test_a_declared_vintage_is_not_undone_by_the_old_file(catalog: Catalog) -> None:
    catalog.ingest([flow(1.0)])
    declared = flow(2.0, "vintage2.csv", vintage="2024-04", known_at=START + 100 * NS_PER_DAY)
    catalog.ingest([declared])
    for batch in (flow(1.0), flow(1.0, "copy.csv"), declared, flow(2.0, "undeclared.csv")):
        report = catalog.ingest([batch])
        assert (report.commit, report.results[0].superseded) == (None, 0)
    assert shown(catalog, vintage="latest") == 2.0


def test_a_declared_vintage_is_compared_with_itself(catalog: Catalog) -> None:
    declared = {"vintage": "2024-04", "known_at": START + 100 * NS_PER_DAY}
    catalog.ingest([flow(1.0)])
    catalog.ingest([flow(2.0, "two.csv", **declared)])
    # The same label with the first vintage's value: the download itself was put right.
    (result,) = catalog.ingest([flow(1.0, "two.csv", **declared)], now=LATER).results
    assert result.restated == 1
    assert shown(catalog, as_of=LATER - 1) == 2.0
    assert shown(catalog, as_of=LATER) == 1.0
    for value in (1.0, 2.0):
        assert catalog.ingest([flow(value, "two.csv", **declared)]).commit is None


def test_a_return_within_one_import_takes_its_turn(catalog: Catalog) -> None:
    batches = [flow(value, f"{place}.csv") for place, value in enumerate((1.0, 2.0, 1.0, 1.0))]
    results = catalog.ingest(batches, now=LATER).results
    assert [result.restated for result in results] == [0, 1, 1, 0]
    assert shown(catalog, vintage="latest") == 1.0


def test_many_restatements_in_one_second_keep_their_order(catalog: Catalog) -> None:
    for value in range(13):
        catalog.ingest([bars(0, 4, volume=np.full(4, 1.0 + value))], now=LATER)
        assert catalog.bars(BTC, "15m", vintage="latest").volume[0] == 1.0 + value
    moments = [change.known_at for change in catalog.restated("bars", BTC_15M)]
    assert moments == list(range(LATER, LATER + 12))


@given(
    st.lists(
        st.dictionaries(st.integers(0, 3), st.integers(0, 2), min_size=1), min_size=1, max_size=6
    )
)
@settings(max_examples=12)
def test_what_one_growing_file_said_at_each_time_can_be_read_back(
    tmp_path_factory: pytest.TempPathFactory, imports: list[dict[int, int]]
) -> None:
    catalog = Catalog.open(tmp_path_factory.mktemp("returns"), create=True)
    expected: dict[int, float] = {}
    states = []
    for number, content in enumerate(imports):
        days = sorted(content)
        parts = [onchain({"Flow": [float(content[day])]}, first_day=day) for day in days]
        columns = {
            name: np.concatenate([part.columns[name] for part in parts])
            for name in parts[0].columns
        }
        batch = Batch("onchain", SERIES, columns, "export.csv")
        moment = LATER + number * NS_PER_DAY
        catalog.ingest([batch], now=moment)
        assert catalog.ingest([batch], now=moment).commit is None
        expected |= {day: float(value) for day, value in content.items()}
        states.append((moment, dict(expected)))
    for moment, state in states:
        read = catalog.onchain(SERIES, "Flow", as_of=moment)
        got = dict(zip((read.ts_event // NS_PER_DAY).tolist(), read.value.tolist(), strict=True))
        first = START // NS_PER_DAY + 1
        # A day that came later is public since its own time, whenever it was imported.
        assert {day: got[first + day] for day in state} == state
