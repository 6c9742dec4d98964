import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import ConfigError
from strategies.order_ids import check_tag, order_id

seconds = st.integers(0, 4_000_000_000)


@given(
    st.from_regex(r"[A-Za-z0-9]{1,6}", fullmatch=True),
    st.sampled_from("EXS"),
    st.text(min_size=1),
    seconds,
)
def test_an_identifier_fits_every_adapter(tag, kind, name, second):
    found = order_id(tag, kind, name, second * 10**9)
    assert len(found) <= 24
    assert found.isascii()
    assert found == order_id(tag, kind, name, second * 10**9)


def test_time_kind_instrument_and_tag_all_tell_orders_apart():
    found = {
        order_id(tag, kind, name, ts * 10**9)
        for tag in ("F1", "F2")
        for kind in "EXS"
        for name in ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
        for ts in (1_704_067_200, 1_704_067_201)
    }
    assert len(found) == 24


@pytest.mark.parametrize("tag", ["", "seven77", "a-b", "ü"])
def test_bad_tags_are_refused(tag):
    with pytest.raises(ConfigError, match="strategy tag must be 1 to 6 letters or digits"):
        check_tag(tag, ("A",))


def test_instruments_with_one_checksum_are_refused():
    # A known pair of colliding CRC-32 inputs.
    with pytest.raises(ConfigError, match="must have different checksums"):
        check_tag("F1", ("plumless", "buckeroo"))
