from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.synthetic import SyntheticConfig, generate
from catalog.errors import DataError
from catalog.store import Catalog
from live.synthesis import make_market

CONFIG = SyntheticConfig(days=3, instruments=("BTCUSDT-PERP.BINANCE",), news_per_day=0.0)


def test_the_same_market_adds_nothing_and_a_longer_one_only_its_end(tmp_path: Path) -> None:
    first = make_market(tmp_path, CONFIG)
    assert first.added > 3 * 96
    assert make_market(tmp_path, CONFIG).added == 0
    longer = make_market(tmp_path, CONFIG.model_copy(update={"days": 4}))
    assert 96 <= longer.added < first.added
    assert len(Catalog.open(tmp_path).bars("BTCUSDT-PERP.BINANCE", "15m")) == 4 * 96


def test_another_market_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    make_market(tmp_path, CONFIG)
    before = Catalog.open(tmp_path).info()
    with pytest.raises(DataError, match="needs a folder of its own"):
        make_market(tmp_path, CONFIG.model_copy(update={"seed": 8}))
    assert Catalog.open(tmp_path).info() == before


def test_real_data_is_never_mixed_with_made_up_data(tmp_path: Path) -> None:
    bars = next(batch for batch in generate(CONFIG) if batch.kind == "bars")
    catalog = Catalog.open(tmp_path, create=True)
    assert not catalog.ingest([replace(bars, synthetic=False)]).refused
    with pytest.raises(DataError, match="catalog of their own"):
        make_market(tmp_path, CONFIG)
