from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nautilus_trader.model import Price

from catalog.encoding import (
    content_digest,
    decimal_text,
    decimals_needed,
    decode,
    encode,
    file_name,
    stored_doubles,
)
from tests.catalog.builders import (
    BTC,
    BTC_15M,
    bar_columns,
    bar_flow,
    funding,
    index,
    news,
    onchain,
)

STAMP = 1_704_067_200_000_000_000


@st.composite
def decimals(draw: st.DrawFn) -> tuple[list[int], int]:
    places = draw(st.integers(0, 16))
    # Below the engine's largest price, and at most 15 digits.
    most = min(10**15 - 1, 17_000_000_000_000 * 10**places)
    return draw(st.lists(st.integers(1, most), min_size=1, max_size=20)), places


@given(decimals())
@settings(max_examples=300)
def test_columns_are_the_doubles_nearest_to_the_decimals(
    case: tuple[list[int], int],
) -> None:
    mantissas, places = case
    texts = [_text(number, places) for number in mantissas]
    values = np.array([float(text) for text in texts])
    stamps = STAMP + np.arange(len(values)) * 60_000_000_000
    columns = {"ts_event": stamps, "ts_init": stamps}
    columns |= dict.fromkeys(("open", "high", "low", "close", "volume"), values)
    data = encode("bars", f"{BTC}-1-MINUTE-LAST-EXTERNAL", columns, (places, places))
    back = decode("bars", data)
    expected = values.tolist()
    assert [Price.from_str(text).raw / 10**16 for text in texts] == expected
    assert back["close"].tolist() == expected
    assert back["volume"].tolist() == expected
    assert stored_doubles(values, places).tolist() == expected
    assert back["ts_init"].tolist() == stamps.tolist()


def _text(mantissa: int, places: int) -> str:
    digits = str(mantissa).rjust(places + 1, "0")
    return digits if places == 0 else f"{digits[:-places]}.{digits[-places:]}"


@given(st.integers(0, 12), st.lists(st.integers(1, 10**14), min_size=1, max_size=30))
def test_decimals_needed_is_the_smallest_that_represents_all(
    places: int, numbers: list[int]
) -> None:
    texts = [_text(number, places) for number in numbers]
    expected = max((len(t.partition(".")[2].rstrip("0")) for t in texts), default=0)
    found, impossible = decimals_needed(np.array([float(text) for text in texts]), 0)
    assert (found, impossible.any()) == (expected, False)


def test_values_that_passed_through_the_engine_need_no_more_decimals() -> None:
    numbers = np.round(np.random.default_rng(1).uniform(1, 1e5, 1000), 2)
    assert decimals_needed(stored_doubles(numbers, 2), 0)[0] == 2


def test_a_value_that_no_decimal_represents_is_found() -> None:
    _, impossible = decimals_needed(np.array([100.5, 100.0 / 3.0, 7.25]), 0)
    assert impossible.tolist() == [False, True, False]


@given(st.floats(-1, 1, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-11))
def test_funding_rates_survive_as_decimal_text(rate: float) -> None:
    text = decimal_text(rate)
    assert "e" not in text
    assert float(text) == rate


@pytest.mark.parametrize(
    "batch", [funding(), onchain({"A": [1.0, 2.0]}), index(), bar_flow(), news()]
)
def test_slow_kinds_survive_a_round_trip(batch: object) -> None:
    from catalog.records import Batch

    assert isinstance(batch, Batch)
    back = decode(batch.kind, encode(batch.kind, batch.series, dict(batch.columns)))
    assert set(back) == set(batch.columns)
    for name, values in back.items():
        np.testing.assert_array_equal(values, batch.columns[name], err_msg=name)
    assert content_digest(batch.kind, back) == content_digest(batch.kind, dict(batch.columns))


def test_the_digest_sees_every_column() -> None:
    columns = bar_columns(0, 5)
    digests = {content_digest("bars", columns)}
    for name in columns:
        changed = {key: np.array(values) for key, values in columns.items()}
        changed[name][2] += 1
        digests.add(content_digest("bars", changed))
    assert len(digests) == 8


def test_texts_cannot_be_shifted_between_rows_unseen() -> None:
    left, right = dict(news(("ab", "c")).columns), dict(news(("a", "bc")).columns)
    assert content_digest("news", left) != content_digest("news", right)


def test_file_names_hold_the_span_and_the_content() -> None:
    stamps = np.array([STAMP, STAMP + 1_500_000_000])
    assert file_name(stamps, "0123456789abcdef9") == (
        "2024-01-01T00-00-00-000000000Z_2024-01-01T00-00-01-500000000Z_0123456789abcdef.parquet"
    )
    assert BTC_15M.startswith(BTC)
