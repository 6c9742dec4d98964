from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.feather as pf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nautilus_trader.model import BarType, CryptoPerpetual, CurrencyPair

from catalog.encoding import decimals_needed
from catalog.errors import ConfigError
from catalog.instruments import (
    KNOWN,
    bar_type,
    definition,
    infer_instrument,
    instrument,
    parse_bar_type,
)
from catalog.timestamps import INTERVALS


@given(st.sampled_from(INTERVALS), st.sampled_from(sorted(KNOWN)))
def test_bar_type_is_the_engines_and_can_be_parsed_back(interval: str, name: str) -> None:
    text = bar_type(name, interval)
    assert str(BarType.from_str(text)) == text
    assert parse_bar_type(text) == (name, interval)


@pytest.mark.parametrize(
    "text",
    [
        "BTCUSDT.BINANCE-7-MINUTE-LAST-EXTERNAL",
        "BTCUSDT.BINANCE-15-MINUTE-BID-EXTERNAL",
        "BTCUSDT.BINANCE-15-MINUTE-LAST-INTERNAL",
        "BTCUSDT.BINANCE",
        "",
    ],
)
def test_other_bar_types_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="bar type must look like"):
        parse_bar_type(text)


def test_unknown_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"interval must be one of 1m, .*, was '7m'"):
        bar_type("BTCUSDT.BINANCE", "7m")


def test_definitions_have_binances_form() -> None:
    btc = instrument("BTCUSDT-PERP.BINANCE")
    assert isinstance(btc, CryptoPerpetual)
    assert (str(btc.price_increment), str(btc.size_increment)) == ("0.1", "0.001")
    assert str(btc.settlement_currency) == "USDT"
    assert btc.min_notional is not None
    assert float(btc.min_notional.as_double()) == 100.0
    assert not btc.is_inverse
    doge = instrument("DOGEUSDT.BINANCE")
    assert isinstance(doge, CurrencyPair)
    assert (str(doge.price_increment), str(doge.size_increment)) == ("0.00001", "1")


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_known_instrument_can_be_defined(name: str) -> None:
    found = definition(KNOWN[name])
    assert str(found.id) == name
    assert found.price_precision == KNOWN[name].price_precision
    assert found.size_precision == KNOWN[name].size_precision


def test_unknown_instrument_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"was 'NOPE\.BINANCE'; known are ADAUSDT\.BINANCE"):
        instrument("NOPE.BINANCE")


def test_an_unknown_instrument_is_inferred_from_its_id_and_decimals() -> None:
    spec = infer_instrument("PEPEUSDT-PERP.BINANCE", 7, 0)
    assert (spec.base, spec.quote, spec.is_perpetual) == ("PEPE", "USDT", True)
    assert str(definition(spec).price_increment) == "0.0000001"
    assert infer_instrument("ETHBTC.KRAKEN", 5, 3).quote == "BTC"
    with pytest.raises(ConfigError, match="instrument id must look like"):
        infer_instrument("USDT.BINANCE", 1, 1)


def test_the_shared_datas_prices_and_volumes_fit_the_definitions_exactly(
    shared_data: Path,
) -> None:
    files = sorted((shared_data / "bars").rglob("*.feather"))
    assert len(files) == 22
    for file in files:
        suffix = "-PERP.BINANCE" if "futures" in file.name else ".BINANCE"
        spec = KNOWN[f"{file.name.split('_')[0]}USDT{suffix}"]
        table = pf.read_table(file)
        for name in ("open", "high", "low", "close", "volume"):
            allowed = spec.size_precision if name == "volume" else spec.price_precision
            values = table[name].to_numpy().astype(np.float64)
            needed, impossible = decimals_needed(values, allowed)
            assert (needed, impossible.any()) == (allowed, False), (file.name, name)
