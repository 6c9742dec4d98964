"""A strategy that begins anew remembers the prices of before its start, and only that."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nautilus_trader.model import Bar

from live.bar_gate import BarSet, RawBar
from live.feed_delivery import Delivery, Receivers
from strategies.kept import KeptStrategy
from strategies.market_data import price_number
from strategies.past_closes import PastCloses
from strategies.rebalance import RebalanceConfig
from strategies.risk_policy import FoundGroups, RiskPolicy
from strategies.sizing_config import SizingConfig
from tests.live.kept_world import BookExchange, Life, Setting, records_of
from tests.strategies.markets import BTC, ETH, close_time, make_predictor, wild
from tests.strategies.settings import plain_execution, trailing_policy

NAMES = (BTC, ETH)
BARS = 120
"""More than a day, so that groups are found with a window that is not empty."""


def life_of(folder: Path) -> Life:
    """A strategy with everything that looks back over returns."""
    folder.mkdir()
    inputs, _ = wild(8, BARS)
    policy = trailing_policy(
        risk=RiskPolicy(
            max_data_age_secs=3_600.0,
            found_groups=FoundGroups(window_bars=96, limit=0.5, min_bars=20),
        ),
        sizing=SizingConfig(method="kelly_multi", max_position=0.5, lookback_bars=96),
        rebalance=RebalanceConfig(schedule="0 * * * *", drift_frac=0.02, lookback_bars=96),
    )
    unsure = {number: dict.fromkeys(NAMES, 0.5) for number in range(BARS)}
    setting = Setting(inputs, lambda: make_predictor(unsure, NAMES), policy, plain_execution())
    records = records_of(setting)
    return Life(setting, records, BookExchange(setting, records), folder / "engine.db")


def remembered(strategy: KeptStrategy) -> tuple[Any, ...]:
    snapshot = strategy.snapshot()
    assert snapshot.guard is not None
    assert snapshot.portfolio is not None
    return snapshot.guard.groups, snapshot.portfolio.window, snapshot.portfolio.rebalance_window


def closes_of(life: Life) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for one in life.records:
        if isinstance(one, Bar):
            name = str(one.bar_type.instrument_id)
            found.setdefault(one.ts_init, {})[name] = price_number(one.close)
    return found


def test_what_it_is_shown_leaves_it_as_one_that_has_run_all_the_time(tmp_path: Path) -> None:
    old, new = life_of(tmp_path / "old"), life_of(tmp_path / "new")
    old.run()
    past = PastCloses(new.strategy)
    for ts, closes in closes_of(old).items():
        past.show(ts, {**closes, "SOLUSDT-PERP.BINANCE": 1.0})
    assert remembered(new.strategy) == remembered(old.strategy)
    assert old.strategy.guard is not None
    assert new.strategy.guard is not None
    found = new.strategy.guard.guard.found_groups
    assert found == old.strategy.guard.guard.found_groups
    # It has decided and sent nothing, and its schedule begins with its first own bar.
    snapshot = new.strategy.snapshot()
    assert snapshot.ts == 0
    assert not snapshot.orders
    assert snapshot.portfolio is not None
    assert snapshot.portfolio.rebalanced_at is None
    old.close()
    new.close()


def test_what_a_start_that_died_has_left_is_not_counted_twice(tmp_path: Path) -> None:
    once, twice = life_of(tmp_path / "once"), life_of(tmp_path / "twice")
    closes = closes_of(once)
    for life, starts in ((once, 1), (twice, 2)):
        for _ in range(starts):
            past = PastCloses(life.strategy)
            for ts, found in closes.items():
                past.show(ts, found)
    assert remembered(twice.strategy) == remembered(once.strategy)
    once.close()
    twice.close()


@pytest.mark.parametrize(
    ("known_until", "shown"), [(0, [0, 1]), (close_time(0), [])], ids=["new", "restored"]
)
def test_only_what_closed_before_the_first_start_is_shown(
    tmp_path: Path, known_until: int, shown: list[int]
) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    inputs, _ = wild(8, 4)
    life = SimpleNamespace(records=records_of(Setting(inputs, Any, Any, plain_execution())))  # type: ignore[arg-type]
    bars = [one for one in life.records if isinstance(one, Bar)]
    predictor = SimpleNamespace(
        spec=SimpleNamespace(uses_funding=False), update=lambda ts, bars: None
    )
    actor: Any = SimpleNamespace(predictor=predictor)
    strategy: Any = SimpleNamespace(on_bar=lambda bar: None)
    receivers = Receivers(
        actor,
        strategy,
        frozenset(NAMES),
        books_funding=False,
        known_until=known_until,
        past=lambda ts, closes: told.append((ts, closes)),
    )
    # A new engine begins at the second close; one that is restored goes on from the first.
    delivery = Delivery(receivers, known_until or close_time(1))
    for number in range(4):
        ts = close_time(number)
        raws = {
            str(one.bar_type.instrument_id): RawBar(
                str(one.bar_type.instrument_id), ts, (), one, streamed=False
            )
            for one in bars
            if one.ts_init == ts
        }
        delivery.hand_on(delivery.close(BarSet(ts, raws, (), fresh=False), []))
    assert [ts for ts, _ in told] == [close_time(number) for number in shown]
    assert all(set(closes) == set(NAMES) for _, closes in told)
