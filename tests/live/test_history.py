"""How an exchange is asked for what is missing, and what a catalog holds of it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.synthetic import SyntheticConfig
from catalog.store import Catalog
from catalog.timestamps import parse_time
from live.bar_gate import BarGate, Gap, GateConfig, RawBar
from live.history import (
    Answer,
    Ask,
    HistoryConfig,
    HistoryDesk,
    StoredHistory,
    first_needed,
    stored_history,
)
from live.synthesis import make_market
from research.predictor import PredictorSpec

SECOND = 10**9
STEP = 900 * SECOND
START = 1_704_067_200 * SECOND
BTC, ETH = "BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE"
SPEC = PredictorSpec((BTC, ETH), STEP, 4, 96, "test", True, "0" * 64)


def close(index: int) -> int:
    return START + index * STEP


def desk(**config: float) -> HistoryDesk:
    return HistoryDesk(STEP, HistoryConfig.model_validate(config), random.Random(1))


def gap(first: int, last: int, name: str = BTC) -> Gap:
    return Gap(name, close(first), close(last))


def ask(subject: HistoryDesk, wall: float, *gaps: Gap) -> list[Ask]:
    return list(subject.due(gaps, round(wall * SECOND)))


def tell(
    subject: HistoryDesk, wall: float, new: int, earliest: int = 0, name: str = BTC
) -> Gap | None:
    return subject.answered(Answer(name, new, close(earliest)), round(wall * SECOND))


def test_a_long_span_is_asked_for_in_pages_that_the_exchange_allows() -> None:
    subject = desk()
    (first,) = ask(subject, 0.0, gap(1, 2_500))
    assert first.start == close(1 - 4)
    assert first.end == close(1_000)
    assert first.limit == 1_006
    assert ask(subject, 0.1, gap(1, 2_500)) == []
    assert tell(subject, 0.2, new=1_000, earliest=-2) is None
    (second,) = ask(subject, 0.3, gap(1_001, 2_500))
    assert second.gap == gap(1_001, 2_000)
    with pytest.raises(ValidationError, match="less than or equal to 1494"):
        HistoryConfig(page_bars=1_500)


def test_nothing_new_is_the_word_of_the_exchange() -> None:
    subject = desk()
    ask(subject, 0.0, gap(5, 7))
    assert tell(subject, 0.1, new=0, earliest=2) == gap(5, 7)
    # It is asked again after a pause, where its word does not count yet.
    assert ask(subject, 0.2, gap(5, 7)) == []
    assert len(ask(subject, 1.2, gap(5, 7))) == 1


def _asked_in(subject: HistoryDesk, begin: float, secs: float, last: int = 1) -> list[float]:
    """When it asks about a market that stands still, answered at once."""
    sent, wall = [], begin
    while wall < begin + secs:
        if ask(subject, wall, gap(1, last)):
            sent.append(wall)
            tell(subject, wall, new=0)
        wall += 0.05
    return sent


def test_a_market_that_stands_still_is_asked_ever_less() -> None:
    subject = desk()
    sent = _asked_in(subject, 0.0, 600.0)
    # Soon at first: an exchange's history may be a second late.
    assert 3 <= sum(at < 4.0 for at in sent) <= 5
    assert sum(at < 35.0 for at in sent) <= 9
    assert 30.0 <= sent[-1] - sent[-2] <= 60.1
    assert subject.failures == 0


def test_a_market_that_goes_on_is_asked_at_once() -> None:
    subject = desk()
    _asked_in(subject, 0.0, 120.0)
    assert not ask(subject, 120.0, gap(1, 1))
    # A streamed bar shows it,
    subject.stirred()
    assert ask(subject, 120.1, gap(1, 1))
    tell(subject, 120.2, new=0)
    assert len(_asked_in(subject, 121.3, 3.0)) >= 2
    # or a later close that is missing, or an answer.
    _asked_in(subject, 125.0, 120.0)
    assert not ask(subject, 245.0, gap(1, 1))
    assert ask(subject, 300.0, gap(2, 2))
    assert tell(subject, 300.1, new=1) is None
    assert ask(subject, 300.2, gap(3, 3))
    tell(subject, 300.3, new=0)
    assert ask(subject, 301.4, gap(3, 3))


def test_pauses_grow_without_an_answer_and_end_with_one() -> None:
    subject = desk(timeout_secs=2.0, retry_secs=1.0, max_retry_secs=8.0)
    wall, sent = 0.0, []
    while wall < 60.0:
        if ask(subject, wall, gap(1, 1)):
            sent.append(wall)
        wall += 0.1
    pauses = np.diff(sent)
    assert subject.failures >= 5
    assert pauses[0] < 3.2
    assert 2.0 + 4.0 <= pauses[-1] <= 2.0 + 8.2
    assert subject.counts.failed == subject.counts.sent - subject.waiting
    subject.hurry()
    wall += 2.0
    ask(subject, wall, gap(1, 1))
    ask(subject, wall + 9.0, gap(1, 1))
    assert tell(subject, wall + 9.1, new=1) is None
    assert subject.failures == 0


def test_after_a_request_without_an_answer_nothing_new_proves_nothing() -> None:
    subject = desk(timeout_secs=1.0)
    ask(subject, 0.0, gap(5, 5))
    assert ask(subject, 1.0, gap(5, 5)) == []
    assert len(ask(subject, 3.0, gap(5, 5))) == 1
    # It may be the answer to the first, which was sent before the bar was there.
    assert tell(subject, 3.1, new=0, earliest=2) is None
    assert len(ask(subject, 5.0, gap(5, 5))) == 1
    assert tell(subject, 5.1, new=0, earliest=2) == gap(5, 5)


def test_a_late_answer_to_an_earlier_page_says_nothing_about_this_one() -> None:
    subject = desk()
    ask(subject, 0.0, gap(301, 600))
    assert tell(subject, 0.1, new=0, earliest=1) is None
    assert subject.waiting
    assert tell(subject, 0.2, new=0, earliest=298) == gap(301, 600)


def test_instruments_are_asked_side_by_side_but_not_faster_than_allowed() -> None:
    subject = desk(requests_per_second=2.0)
    both = gap(1, 5), gap(1, 5, ETH)
    assert [one.instrument_id for one in ask(subject, 0.0, *both)] == [BTC]
    assert ask(subject, 0.4, *both) == []
    assert [one.instrument_id for one in ask(subject, 0.5, *both)] == [ETH]


def test_empty_answers_that_could_belong_to_several_are_asked_again_in_turn() -> None:
    subject = desk(requests_per_second=1e6)
    both = gap(1, 5), gap(1, 5, ETH)
    assert [len(ask(subject, wall, *both)) for wall in (0.0, 0.1)] == [1, 1]
    assert subject.answered(None, SECOND) is None
    assert not subject.waiting
    assert ask(subject, 1.0, *both) == []
    (first,) = ask(subject, 1.2, *both)
    assert ask(subject, 1.3, *both) == []
    assert subject.answered(None, round(1.4 * SECOND)) == first.gap
    (second,) = ask(subject, 1.5, *both)
    assert second.instrument_id != first.instrument_id


def test_what_nobody_asked_for_is_no_answer() -> None:
    subject = desk()
    assert tell(subject, 0.0, new=3) is None
    assert subject.answered(None, 0) is None
    subject.failed(BTC, 0)
    assert subject.counts.failed == 0
    ask(subject, 0.0, gap(1, 1))
    subject.failed(BTC, SECOND)
    assert subject.failures == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), bars=st.integers(1, 120), page=st.integers(4, 60))
# A run of bars that do not exist, longer than a page and the last but one.
@example(seed=99, bars=72, page=4)
def test_an_exchange_in_any_order_of_answers_brings_every_bar_that_it_has(
    seed: int, bars: int, page: int
) -> None:
    rng = random.Random(seed)
    exists = {index for index in range(-5, bars + 1) if rng.random() > 0.2} | {bars}
    gate = BarGate((BTC,), STEP, close(1), GateConfig())
    subject = HistoryDesk(STEP, HistoryConfig(page_bars=page, timeout_secs=5.0), rng)
    wall, now, travelling = 0, close(bars) + 3_600 * SECOND, []
    exists_now = (exists, set(range(bars + 1, bars + 5)))
    got: list[int] = []
    while gate.next_ts <= close(bars) and wall < 20_000 * SECOND:
        for one in subject.due(gate.gaps(now), wall):
            delay = rng.choice((0, 1, 1, 1, 8)) * SECOND
            opens = range(one.start, one.end + 1, STEP)
            found = [
                ts + STEP for ts in opens if (ts + STEP - START) // STEP in set().union(*exists_now)
            ]
            if rng.random() > 0.1:
                travelling.append((wall + delay, found[: min(one.limit, 30)]))
        for due in sorted(travelling):
            if due[0] > wall:
                continue
            travelling.remove(due)
            raws = [RawBar(BTC, ts, (1.0, 1.0, 1.0, 1.0, 1.0), None, False) for ts in due[1]]
            new = [gate.take(raw, now) for raw in raws].count("taken")
            if raws:
                gate.proves(BTC)
            answer = Answer(BTC, new, min(due[1])) if raws else None
            nothing = subject.answered(answer, wall)
            if nothing is not None and (raws or not gate.is_proved(BTC)):
                gate.lacks(nothing, now)
        got += [(one.ts - START) // STEP for one in gate.ready(now)]
        wall += SECOND // 2
    assert [one for one in got if one <= bars] == sorted(one for one in exists if one >= 1)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history") / "catalog"
    make_market(folder, SyntheticConfig(days=4))
    return folder


def test_a_catalog_is_read_from_where_the_features_begin(catalog: Path) -> None:
    now = parse_time("2024-01-04T12:07:00")
    since = first_needed(SPEC, now)
    assert since == parse_time("2024-01-04T12:00:00") - 96 * STEP
    found = stored_history(catalog, SPEC, since, until=now)
    assert not found.lacking
    for name in (BTC, ETH):
        bars = found.bars[name]
        assert (int(bars.ts_init[0]), int(bars.ts_init[-1])) == (since, now - 420 * SECOND)
        assert len(bars) == 97
        # Features look back further on rates than on bars.
        assert int(found.funding[name].ts_init[0]) < since
    instruments = [Catalog.open(catalog).instrument(name) for name in (BTC, ETH)]
    records = found.records(instruments, STEP)
    assert [bar.ts_init for bar in records[ETH]] == found.bars[ETH].ts_init.tolist()


def test_slow_series_come_along_and_those_that_lack_are_named(catalog: Path) -> None:
    now = parse_time("2024-01-04T12:00:00")
    stored = {(str(one.kind), one.series) for one in Catalog.open(catalog).series()}
    onchain = next(series for kind, series in stored if kind == "onchain")
    news = next(series for kind, series in stored if kind == "news")
    series = (f"onchain.{onchain}.AdrActCnt", f"news.{news}", "index.dvol.btc")
    spec = replace(SPEC, series=series)
    found = stored_history(catalog, spec, first_needed(spec, now), until=now)
    assert found.lacking == ("index.dvol.btc",)
    assert set(found.slow.series) == set(series[:2])
    headlines = found.slow.series[f"news.{news}"]
    assert headlines.extra is not None
    assert headlines.extra[0] == 1.0
    assert all(int(one.ts_init[-1]) <= now for one in found.slow.series.values())


def test_without_a_catalog_everything_is_asked_from_the_exchange(tmp_path: Path) -> None:
    spec = replace(SPEC, series=("index.dvol.btc",))
    for folder in (None, tmp_path / "none"):
        found = stored_history(folder, spec, close(1))
        assert found == StoredHistory(lacking=("index.dvol.btc",))
        assert found.records([], STEP) == {}
