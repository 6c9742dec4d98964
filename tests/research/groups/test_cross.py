from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.arrays import BarArrays
from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, NS_PER_MINUTE
from research.features import FeatureConfig, compute_features
from research.groups import cross
from research.kernel_tools import MAX_CARRIED
from research.kernels import CROSS_SLOTS
from research.lookahead import audit_features
from research.panel import Panel
from tests.research.groups.agreement import assert_one_value, batch_rows, columns
from tests.research.groups.references import at_rows, cross_section, on_the_grid
from tests.research.markets import BTC, COLUMNS, ETH, INSTRUMENTS, SOL, Market, take

CROSS = FeatureConfig(funding=False, lead=BTC, cross=True)
NAMES = [feature.name.removeprefix("cross_") for feature in cross.features(BTC)]
OF_THE_PAIR = ("correlation", "beta", "residual_1", "residual_16", "lead_lag")


def with_prices(bars: BarArrays, factor: float) -> BarArrays:
    prices = {name: getattr(bars, name) * factor for name in ("open", "high", "low", "close")}
    return replace(bars, **prices)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.02, 0.3]),
    gap=st.one_of(st.none(), st.tuples(st.integers(0, 1_300), st.integers(1, 200))),
    offset=st.integers(1, 400),
    lead=st.sampled_from(INSTRUMENTS),
)
def test_a_stream_started_anywhere_equals_the_batch(
    seed: int, missing: float, gap: tuple[int, int] | None, offset: int, lead: str
) -> None:
    panel = Market(seed, 1_600, missing=missing, gap=gap).panel()
    assert_one_value(panel, CROSS.model_copy(update={"lead": lead}), offset)


@pytest.mark.parametrize("market", [Market(1, missing=0.1), Market(2, gap=(1_010, 90))])
def test_plain_python_equals_compiled(market: Market) -> None:
    assert_one_value(market.panel(), CROSS, 60, compiled=False)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_columns_match_rolling_windows(missing: float) -> None:
    panel = Market(3, 1_500, missing=missing).panel()
    matrix = compute_features(panel, CROSS)
    frames = [on_the_grid(bars) for bars in panel.bars]
    places = [matrix.names.index(f"cross_{name}") for name in NAMES]
    for number in range(3):
        rows = matrix.valid & (matrix.instrument == number)
        assert rows.sum() > 400
        expected = at_rows(cross_section(frames, number), matrix, number, NAMES)
        found = matrix.values[np.ix_(rows, places)]
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_the_lead_is_its_own_limit() -> None:
    matrix = compute_features(Market(4).panel(), CROSS)
    lead = matrix.valid & (matrix.instrument == 0)
    for name, value in (("correlation", 1.0), ("beta", 1.0), ("residual_1", 0.0)):
        column = matrix.values[lead, matrix.names.index(f"cross_{name}")]
        assert set(column.tolist()) == {value}
    lagged = matrix.values[lead, matrix.names.index("cross_lead_return_1_lag_2")]
    own = matrix.values[lead, matrix.names.index("return_1_lag_2")]
    np.testing.assert_allclose(lagged, own, rtol=1e-12)


def follower(panel: Panel, lag: int) -> Panel:
    """Let the second instrument do what the lead did `lag` bars before, twice as strongly."""
    lead, other = panel.bars[0], panel.bars[1]
    price = 50.0 * (np.concatenate([lead.close[:1].repeat(lag), lead.close])[: len(lead)]) ** 2
    prices = dict.fromkeys(("open", "high", "low", "close"), price)
    return replace(panel, bars=(lead, replace(other, **prices), panel.bars[2]))


def test_who_moves_with_the_lead_and_who_follows_it_is_told_apart() -> None:
    for lag, (with_it, after_it) in ((0, (1.0, None)), (1, (None, 1.0))):
        matrix = compute_features(follower(Market(5).panel(), lag), CROSS)
        rows = matrix.valid & (matrix.instrument == 1)
        table = {name: matrix.values[rows, matrix.names.index(f"cross_{name}")] for name in NAMES}
        for name, expected in (("correlation", with_it), ("lead_lag", after_it)):
            if expected is None:
                assert np.abs(table[name]).max() < 0.7
            else:
                np.testing.assert_allclose(table[name], expected, rtol=1e-9)
        if lag == 0:
            np.testing.assert_allclose(table["beta"], 2.0, rtol=1e-9)
            np.testing.assert_allclose(table["residual_16"], 0.0, atol=1e-9)


def test_bars_missing_for_all_count_as_written_out() -> None:
    # In slots without any bar nobody is called: the kernel catches up, in step with the lead.
    panel = Market(6, 1_400).panel()
    gone = np.zeros(1_400, dtype=np.bool_)
    gone[1_010:1_013] = gone[1_100] = True
    gone[1_200 : 1_200 + MAX_CARRIED - 1] = True
    left_out = replace(panel, bars=tuple(take(bars, ~gone) for bars in panel.bars))
    written = []
    for bars in panel.bars:
        table = {name: getattr(bars, name).copy() for name in COLUMNS[1:]}
        for row in np.flatnonzero(gone):
            for name in ("open", "high", "low", "close"):
                table[name][row] = table["close"][row - 1]
            table["volume"][row] = 0.0
        written.append(replace(bars, **table))
    found = batch_rows(compute_features(left_out, CROSS))
    everything = batch_rows(compute_features(replace(panel, bars=tuple(written)), CROSS))
    assert len(found) == len(everything) - 3 * gone.sum()
    for key, row in found.items():
        assert row.tobytes() == everything[key].tobytes()


def test_the_lead_is_unknown_until_it_has_history_and_after_it_stops() -> None:
    panel = Market(7).panel()
    bars = list(panel.bars)
    bars[0] = bars[0].between(int(bars[0].ts_init[1_000]), int(bars[0].ts_init[1_200]))
    matrix = compute_features(replace(panel, bars=tuple(bars)), CROSS)
    rows = slice(len(bars[0]), len(bars[0]) + 1_300)
    expected = np.zeros(1_300, dtype=np.bool_)
    expected[1_001 + CROSS_SLOTS : 1_201 + MAX_CARRIED] = True
    for name in (*OF_THE_PAIR, "lead_return_1_lag_1", "lead_return_1_lag_3"):
        column = matrix.values[rows, matrix.names.index(f"cross_{name}")]
        np.testing.assert_array_equal(np.isfinite(column), expected)
    # The set goes on without it.
    for name in ("dispersion_1", "rank_16", "peers_volume_zscore"):
        column = matrix.values[rows, matrix.names.index(f"cross_{name}")]
        assert np.isfinite(column[960:]).all()


def test_alone_there_is_no_set() -> None:
    panel = Market(8).panel()
    found = columns(
        compute_features(replace(panel, bars=panel.bars[:1], funding={}), CROSS), "cross_"
    )
    for name in NAMES:
        of_others = name.startswith(("dispersion", "rank", "peers"))
        assert np.isnan(found[name]).all() == of_others


def test_a_market_that_stands_still_has_no_columns() -> None:
    matrix = compute_features(Market(9, still=True).panel(), CROSS)
    found = columns(matrix, "cross_")
    found.pop("peers_volume_zscore")
    for values in found.values():
        assert np.isnan(values).all()
    assert not np.isinf(matrix.values).any()


@pytest.mark.parametrize(
    "market", [Market(10), Market(11, missing=0.1), Market(12, gap=(1_050, 30))]
)
def test_no_column_looks_ahead(market: Market) -> None:
    assert audit_features(market.panel(), CROSS) == []


def test_columns_do_not_depend_on_scale_or_on_the_week() -> None:
    panel = Market(13).panel()
    moved = tuple(
        replace(
            with_prices(bars, factor),
            ts_init=bars.ts_init + 7 * NS_PER_DAY,
            volume=bars.volume * 4.0 * factor,
        )
        for bars, factor in zip(panel.bars, (0.31, 7.0, 1900.0), strict=True)
    )
    one = columns(compute_features(panel, CROSS), "cross_")
    other = columns(compute_features(replace(panel, bars=moved, funding={}), CROSS), "cross_")
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-6, atol=1e-8)


def test_the_order_of_the_instruments_does_not_matter() -> None:
    panel = Market(14, missing=0.05).panel()
    turned = replace(panel, bars=panel.bars[::-1])
    one, other = compute_features(panel, CROSS), compute_features(turned, CROSS)
    places = [place for place, name in enumerate(one.names) if name.startswith("cross_")]
    before, after = batch_rows(one), batch_rows(other)
    assert before.keys() == after.keys()
    for key, row in before.items():
        np.testing.assert_allclose(after[key][places], row[places], rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    scores=st.lists(st.integers(-3, 3), min_size=2, max_size=6),
    still=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_ranks_count_those_below_and_half_of_those_level(
    scores: list[int], still: list[bool]
) -> None:
    floats = [[0.0] * cross.FLOATS for _ in scores]
    for f, score, stands in zip(floats, scores, still, strict=False):
        f[cross.VOLATILITY] = 0.0 if stands else 1.0
        f[cross.SCALED_1], f[cross.SCALED_16] = float(score), float(-score)
    row = [0.0] * cross.COLUMNS
    for index, score in enumerate(scores):
        others = [
            other for place, other in enumerate(scores) if place != index and not still[place]
        ]
        cross.write_place(row, 0, floats, index)
        if still[index] or not others:
            assert np.isnan(row[cross.RANK_1])
            assert np.isnan(row[cross.RANK_16])
            continue
        share = np.mean([(other < score) + 0.5 * (other == score) for other in others])
        assert row[cross.RANK_1] == pytest.approx(share)
        assert row[cross.RANK_16] == pytest.approx(1.0 - share)


def test_a_lead_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lead of the cross features must be one of .*, was XRP"):
        cross.settings((ETH, SOL), 15 * NS_PER_MINUTE, "XRP")
    assert cross.settings(INSTRUMENTS, 15 * NS_PER_MINUTE, SOL)[cross.LEAD] == 2
