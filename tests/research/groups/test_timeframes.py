from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError
from catalog.timestamps import INTERVALS, NS_PER_DAY, NS_PER_MINUTE, interval_ns
from research.features import FeatureConfig, compute_features
from research.groups import timeframes
from research.kernels import WARMUP_SLOTS
from research.lookahead import audit_features
from research.panel import Panel
from tests.research.groups.agreement import assert_one_value, columns
from tests.research.groups.references import at_rows, higher_interval, on_the_grid
from tests.research.markets import INSTRUMENTS, Market, take

QUARTER = 15 * NS_PER_MINUTE
KEPT = [feature.name for feature in timeframes.features(("1h", "4h"))]
KEPT = [name for name in KEPT if not name.endswith(("unfinished_return", "phase"))]


def config(*intervals: str) -> FeatureConfig:
    return FeatureConfig(funding=False, timeframes=intervals)


def alone(panel: Panel, number: int = 0) -> Panel:
    return replace(panel, bars=panel.bars[number : number + 1], funding={})


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    base=st.sampled_from(
        [("15m", ("1h", "4h")), ("5m", ("15m", "1h", "4h")), ("1h", ("4h", "1d"))]
    ),
    missing=st.sampled_from([0.0, 0.02, 0.3]),
    gap=st.one_of(st.none(), st.tuples(st.integers(0, 1_300), st.integers(1, 200))),
    offset=st.integers(1, 400),
)
def test_a_stream_started_anywhere_equals_the_batch(
    seed: int,
    base: tuple[str, tuple[str, ...]],
    missing: float,
    gap: tuple[int, int] | None,
    offset: int,
) -> None:
    panel = Market(seed, 1_600, interval_ns(base[0]), missing, gap).panel()
    assert_one_value(panel, config(*base[1]), offset)


def test_plain_python_equals_compiled() -> None:
    assert_one_value(Market(1, 1_300, missing=0.1).panel(), config("1h", "4h"), 77, compiled=False)


@pytest.mark.parametrize(
    ("base", "intervals"), [("15m", ("1h", "4h")), ("5m", ("15m", "1h", "4h")), ("30m", ("6h",))]
)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_views_match_resampled_bars(base: str, intervals: tuple[str, ...], missing: float) -> None:
    panel = Market(2, 1_700, interval_ns(base), missing).panel()
    matrix = compute_features(panel, config(*intervals))
    for number, bars in enumerate(panel.bars):
        rows = matrix.valid & (matrix.instrument == number)
        assert rows.sum() > 400
        for interval in intervals:
            table = higher_interval(on_the_grid(bars), interval)
            names = [name.removeprefix(f"tf_{interval}_") for name in _names(interval)]
            found = matrix.values[rows][:, [matrix.names.index(name) for name in _names(interval)]]
            expected = at_rows(table, matrix, number, names)
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def _names(interval: str) -> list[str]:
    return [feature.name for feature in timeframes.features((interval,))]


def test_a_bar_is_complete_although_its_last_base_bar_is_missing() -> None:
    panel = alone(Market(3, 1_100).panel())
    times = panel.bars[0].ts_init
    boundary = int(np.flatnonzero(times % (4 * QUARTER) == 0)[-5])
    kept = np.arange(len(times)) != boundary
    matrix = compute_features(replace(panel, bars=(take(panel.bars[0], kept),)), config("1h"))
    phase = matrix.values[:, matrix.names.index("tf_1h_phase")]
    first = matrix.values[:, matrix.names.index("tf_1h_return_1")]
    # The rows now at `boundary` are those of the next quarter: a new value, in the same hour as
    # the rows after it.
    assert phase[boundary - 1 : boundary + 3].tolist() == [0.75, 0.25, 0.5, 0.75]
    assert first[boundary] != first[boundary - 1]
    assert first[boundary] == first[boundary + 1] == first[boundary + 2]


def test_the_unfinished_bar_shows_in_its_own_column_only() -> None:
    panel = alone(Market(4, 1_100).panel())
    bars = panel.bars[0]
    row = int(np.flatnonzero(bars.ts_init % (16 * QUARTER) == 0)[-3]) + 2
    later = {}
    for name in ("open", "high", "low", "close"):
        later[name] = getattr(bars, name).copy()
        later[name][row] *= 1.5
    one = compute_features(panel, config("1h", "4h"))
    other = compute_features(replace(panel, bars=(replace(bars, **later),)), config("1h", "4h"))
    changed = one.values[row] != other.values[row]
    by_name = dict(zip(one.names, changed.tolist(), strict=True))
    assert not any(by_name[name] for name in KEPT)
    assert by_name["tf_1h_unfinished_return"]
    assert by_name["tf_4h_unfinished_return"]
    end = row + 2  # the hour is over, the four hours are not
    by_name = dict(zip(one.names, (one.values[end] != other.values[end]).tolist(), strict=True))
    # What went up came down again within the hour: its close is where it was.
    assert by_name["tf_1h_close_location"]
    assert by_name["tf_1h_volatility_ratio"]
    assert not any(by_name[name] for name in KEPT if name.startswith("tf_4h"))


@pytest.mark.parametrize("market", [Market(5), Market(6, missing=0.1), Market(7, gap=(1_050, 30))])
def test_no_view_looks_ahead(market: Market) -> None:
    assert audit_features(alone(market.panel()), config("1h", "4h")) == []


@pytest.mark.parametrize("weeks", [1, 7])
def test_views_do_not_depend_on_scale_or_on_the_week(weeks: int) -> None:
    panel = Market(8).panel()
    moved = []
    for bars in panel.bars:
        prices = {name: getattr(bars, name) * 0.37 for name in ("open", "high", "low", "close")}
        shift = weeks * 7 * NS_PER_DAY
        moved.append(replace(bars, ts_init=bars.ts_init + shift, volume=bars.volume * 5, **prices))
    one = columns(compute_features(panel, config("1h", "4h")), "tf_")
    other = columns(
        compute_features(replace(panel, bars=tuple(moved), funding={}), config("1h", "4h")), "tf_"
    )
    assert len(one) == 18
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-7, atol=1e-8)


def test_a_market_that_stands_still_has_no_views() -> None:
    found = columns(compute_features(Market(9, still=True).panel(), config("1h")), "tf_1h_")
    assert np.isfinite(found.pop("phase")).all()
    for values in found.values():
        assert np.isnan(values).all()


@given(base=st.sampled_from(INTERVALS), interval=st.sampled_from(INTERVALS))
def test_windows_fit_the_memory_or_are_refused(base: str, interval: str) -> None:
    length, rest = divmod(interval_ns(interval), interval_ns(base))
    fits = rest == 0 and length >= 2 and 17 * length <= WARMUP_SLOTS
    if not fits:
        with pytest.raises(ConfigError, match=f"timeframes must be .* {interval}"):
            timeframes.settings(INSTRUMENTS, interval_ns(base), (interval,))
        return
    found = timeframes.settings(INSTRUMENTS, interval_ns(base), (interval,))
    assert found[timeframes.LENGTHS] == length
    mean = found[timeframes.MEANS]
    assert timeframes.WINDOW <= mean <= timeframes.LONGEST_MEAN
    # The oldest close of the mean, when the unfinished bar is as long as it gets.
    assert mean * length + length - 1 < WARMUP_SLOTS


def test_intervals_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"interval must be one of .*, was .20m."):
        timeframes.settings(INSTRUMENTS, QUARTER, ("20m",))
    with pytest.raises(
        ConfigError, match=r"must be multiples of the base bar .15m., were given 15m"
    ):
        timeframes.settings(INSTRUMENTS, QUARTER, ("15m",))
    with pytest.raises(ConfigError, match=r"at most 56 base bars .* was 1d \(96 bars\); choose"):
        timeframes.settings(INSTRUMENTS, QUARTER, ("1d",))
    with pytest.raises(ConfigError, match="timeframes must be distinct, were 1h, 1h"):
        timeframes.settings(INSTRUMENTS, QUARTER, ("1h", "1h"))
    many = ("2h", "3m", "5m", "15m", "30m", "1h", "4h")
    with pytest.raises(ConfigError, match="timeframes must be at most 6, were 7"):
        timeframes.settings(INSTRUMENTS, NS_PER_MINUTE, many)
