"""Settings of slow inputs: checked by key, complete for a predictor, silent about keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.polling_config import (
    DvolSource,
    FundingSource,
    NewsSource,
    Polling,
    PollLimits,
    load_polling,
)
from catalog.errors import ConfigError

BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"

EXAMPLE = """
funding: {instruments: [BTCUSDT-PERP.BINANCE], base_url: "http://127.0.0.1:8080/"}
dvol: {currencies: [btc, eth]}
fear_greed: {}
onchain: {assets: [btc], metrics: [AdrActCnt, FlowInExUSD], every_secs: 1800}
news:
  - {series: wire, url: "https://news.test/rss", asset: btc}
  - series: paid
    url: https://paid.test/v1/news
    format: json
    fields: {items: results, published: published_at, score: sentiment}
    query_from_env: {auth_token: NEWS_TOKEN}
limits: {max_bytes: 1000000}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "inputs.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    config = load_polling(write(tmp_path, EXAMPLE))
    assert config.names == (
        f"funding.{BTC}",
        "index.dvol.btc",
        "index.dvol.eth",
        "index.fear_greed",
        "onchain.coinmetrics.btc.AdrActCnt",
        "onchain.coinmetrics.btc.FlowInExUSD",
        "news.wire",
        "news.paid",
    )
    assert config.funding is not None
    assert config.funding.base_url == "http://127.0.0.1:8080"
    assert Polling.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dvol: {currency: [btc]}", "dvol.currency: unknown key; did you mean 'currencies'"),
        ("dvol: {currencies: [BTC]}", "must be in lower case, such as btc, were BTC"),
        ("dvol: {currencies: [btc, btc]}", "currencies must be distinct"),
        ("dvol: {base_url: ftp://x.test}", "must be a full http.s. address, was 'ftp://x.test'"),
        ("dvol: {base_url: 'http://x.test/?a=b'}", "must be an address without a query"),
        ("dvol: {every_secs: 0}", "dvol.every_secs: .* was 0"),
        ("funding: {}", "funding.instruments: must be given"),
        ("funding: {instruments: [BTCUSDT.BINANCE]}", "perpetuals .*, were BTCUSDT.BINANCE"),
        ("onchain: {metrics: [made_up]}", "metrics must be ones whose unit is known, were made_up"),
        ("news: [{series: a, url: 'http://x.test'}, {series: a, url: 'http://y.test'}]",
         "news must be distinct, were a, a"),
        ("limits: {backoff_secs: 9, max_backoff_secs: 3}", "at least backoff_secs .9.*was 3"),
        ("[]", "must be a mapping"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_polling(write(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "news: [{series: a, url: 'https://me:s3cr3t@x.test/rss'}]",
        "news: [{series: a, url: 'https://x.test', query_from_env: {k: 's3cr3t!'}}]",
        "news: [{series: a, url: 'https://x.test', headers_from_env: {k: 'Bearer s3cr3t'}}]",
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="environment") as caught:
        load_polling(write(tmp_path, text))
    assert "s3cr3t" not in str(caught.value)


def test_a_predictor_gets_what_it_looks_at_and_nothing_else() -> None:
    wire = NewsSource(series="wire", url="https://news.test/rss")
    given = Polling(
        funding=FundingSource(instruments=(ETH,), base_url="http://127.0.0.1:1", every_secs=5.0),
        news=(wire, NewsSource(series="other", url="https://other.test/rss")),
        limits=PollLimits(max_skew_secs=1.0),
    )
    series = (
        "onchain.coinmetrics.btc.AdrActCnt",
        "onchain.coinmetrics.btc.TxCnt",
        "index.dvol.eth",
        "index.fear_greed",
        "news.wire",
    )
    found = given.for_predictor(series, (BTC,))
    assert set(found.names) == {*series, f"funding.{BTC}"}
    assert found.funding == FundingSource(
        instruments=(BTC,), base_url="http://127.0.0.1:1", every_secs=5.0
    )
    assert found.dvol == DvolSource(currencies=("eth",))
    assert found.news == (wire,)
    assert found.limits == given.limits
    assert given.for_predictor((), ()).names == ()


@pytest.mark.parametrize("name", ["news.wire", "onchain.etherscan.eth.GasUsed", "index.vix"])
def test_a_series_that_nobody_reads_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"lacked {name}: news are named"):
        Polling().for_predictor((name,), ())
