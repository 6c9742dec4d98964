"""The statistics of luck against numbers in the papers, literal versions and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from catalog.errors import ConfigError, DataError
from research.overfitting import (
    SharpeMoments,
    deflated_sharpe,
    expected_maximum,
    independent_trials,
    minimum_backtest_length,
    minimum_track_record,
    probabilistic_sharpe,
)
from research.performance import sharpe


def annual(ratio: float, periods: int) -> float:
    """Return an annual ratio per period."""
    return ratio / math.sqrt(periods)


def test_moments_agree_with_scipy_and_with_the_reported_sharpe_ratio() -> None:
    returns = np.random.default_rng(1).standard_t(4, 500) * 0.01 + 0.001
    found = SharpeMoments.of(returns)
    assert found.observations == 500
    assert found.sharpe * math.sqrt(365) == pytest.approx(sharpe(returns), rel=1e-12)
    assert found.skew == pytest.approx(stats.skew(returns), rel=1e-12)
    assert found.kurtosis == pytest.approx(stats.kurtosis(returns, fisher=False), rel=1e-12)


def test_the_hedge_fund_of_two_years() -> None:
    # Bailey and López de Prado (2012), section "Numerical example": 24 monthly returns, an
    # annual ratio of 1.59. The paper prints 0.913 with the true moments and 0.982 without.
    wild = SharpeMoments(24, 0.458, skew=-2.448, kurtosis=10.164)
    assert probabilistic_sharpe(wild) == pytest.approx(0.913, abs=5e-4)
    assert probabilistic_sharpe(SharpeMoments(24, 0.458)) == pytest.approx(0.982, abs=5e-4)


@pytest.mark.parametrize(
    ("periods", "skew", "kurtosis", "years"),
    [(252, 0, 3, 2.73), (52, 0, 3, 2.83), (12, 0, 3, 3.24), (12, -0.72, 5.78, 4.99)],
)
def test_track_records_of_the_paper(
    periods: int, skew: float, kurtosis: float, years: float
) -> None:
    # Bailey and López de Prado (2012), section on the minimum track record length: an annual
    # ratio of 2 that shall be above 1 with 95 %.
    moments = SharpeMoments(100, annual(2.0, periods), skew, kurtosis)
    found = minimum_track_record(moments, annual(1.0, periods))
    assert found / periods == pytest.approx(years, abs=5e-3)


@pytest.mark.parametrize(
    ("trials", "skew", "kurtosis", "value"),
    [(100, -3, 10, 0.9004), (46, -3, 10, 0.9505), (88, 0, 3, 0.9505)],
)
def test_the_strategist_of_the_paper(
    trials: int, skew: float, kurtosis: float, value: float
) -> None:
    # Bailey and López de Prado (2014), "A numerical example": five years of 250 days, an annual
    # ratio of 2.5, annual ratios of the trials with a variance of 1/2.
    moments = SharpeMoments(1250, annual(2.5, 250), skew, kurtosis)
    found = deflated_sharpe(moments, trials=trials, spread=annual(math.sqrt(0.5), 250))
    assert found.value == pytest.approx(value, abs=5e-5)
    if trials == 100:
        assert found.threshold == pytest.approx(0.1132, abs=5e-5)


def test_five_years_allow_45_trials() -> None:
    # Bailey, Borwein, López de Prado and Zhu (2014): with five years, no more than 45 trials, or
    # a ratio of 1 is expected in sample although none out of sample is.
    assert minimum_backtest_length(45, 1.0) < 5.0 < minimum_backtest_length(46, 1.0)
    assert minimum_backtest_length(45, 1.0) < 2.0 * math.log(45)


@given(
    st.floats(0.001, 0.5),
    st.floats(-2, 2),
    st.floats(0.1, 20),
    st.floats(0, 0.9),
    st.floats(0.6, 0.999),
)
def test_a_track_record_of_minimum_length_has_just_the_confidence(
    ratio: float, skew: float, more: float, part: float, confidence: float
) -> None:
    moments = SharpeMoments(10, ratio, skew, 1.0 + skew**2 + more)
    length = minimum_track_record(moments, part * ratio, confidence=confidence)
    literal = ratio * (1.0 - part) * math.sqrt(length - 1.0)
    literal /= math.sqrt(1.0 - skew * ratio + (moments.kurtosis - 1.0) / 4.0 * ratio * ratio)
    assert stats.norm.cdf(literal) == pytest.approx(confidence, rel=1e-9)
    long, short = (
        SharpeMoments(n, ratio, skew, moments.kurtosis)
        for n in (math.ceil(length), max(math.floor(length), 2))
    )
    assert probabilistic_sharpe(long, part * ratio) >= confidence - 1e-12
    if length >= 2.0:
        assert probabilistic_sharpe(short, part * ratio) <= confidence + 1e-12


@pytest.mark.parametrize("trials", [5, 20, 100, 1000])
def test_the_expected_maximum_is_that_of_a_simulation(trials: int) -> None:
    random = np.random.default_rng(trials)
    drawn = random.standard_normal((4000, trials)).max(axis=1)
    error = drawn.std(ddof=1) / math.sqrt(len(drawn))
    assert expected_maximum(trials) == pytest.approx(drawn.mean(), abs=0.03 + 4 * error)


def test_more_trials_deflate_more_and_one_does_not() -> None:
    moments = SharpeMoments(365, 0.1, -0.5, 6.0)
    values = [deflated_sharpe(moments, trials=n, spread=0.05).value for n in (1, 2, 3, 10, 1000)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1] + 0.5
    alone = deflated_sharpe(moments, trials=1)
    assert alone.value == values[0] == probabilistic_sharpe(moments)
    assert alone.as_dict()["spread"] is None


def test_the_best_of_lucky_trials_is_seldom_significant() -> None:
    random = np.random.default_rng(3)
    plain = deflated = 0
    for _ in range(200):
        returns = random.standard_normal((500, 20)) * 0.01
        ratios = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
        best = SharpeMoments.of(returns[:, int(ratios.argmax())])
        plain += probabilistic_sharpe(best) > 0.95
        spread = float(ratios.std(ddof=1))
        deflated += deflated_sharpe(best, trials=20, spread=spread).value > 0.95
    # One trial would be right 19 times of 20; the best of 20 looks so nearly two times of three.
    assert plain > 100
    assert deflated <= 10


def test_correlated_trials_count_as_fewer() -> None:
    assert independent_trials(100, 0.0) == 100.0
    assert independent_trials(100, 1.0) == 1.0
    assert independent_trials(100, 0.5) == 50.5
    assert independent_trials(100, -0.2) == 100.0


@pytest.mark.parametrize(
    "returns",
    [[], [0.1, 0.2, 0.3], [0.01] * 50, [0.01, -0.02, math.nan, 0.01, 0.02]],
    ids=["none", "three", "equal", "ruined"],
)
def test_what_is_not_defined_is_nan(returns: list[float]) -> None:
    moments = SharpeMoments.of(np.array(returns))
    found = deflated_sharpe(moments, trials=3, spread=0.1)
    assert math.isnan(found.value)
    assert found.as_dict()["value"] is None
    assert math.isnan(minimum_track_record(moments))


def test_a_loss_never_becomes_a_record() -> None:
    assert minimum_track_record(SharpeMoments(100, -0.1)) == math.inf
    assert minimum_track_record(SharpeMoments(100, 0.1), 0.1) == math.inf


def test_two_values_only() -> None:
    # Kurtosis at its lower end, where the variance of the ratio can be zero.
    moments = SharpeMoments(10, 2.0, skew=1.0, kurtosis=2.0)
    assert moments.variance == 0.0
    assert [probabilistic_sharpe(moments, b) for b in (1.0, 2.0, 3.0)] == [1.0, 0.5, 0.0]


def test_wrong_arguments() -> None:
    moments = SharpeMoments(100, 0.1)
    with pytest.raises(
        DataError, match=r"kurtosis must be at least 1 \+ skew² = 1, was 0; .*exces"
    ):
        SharpeMoments(100, 0.1, 0.0, 0.0)
    with pytest.raises(DataError, match="observations must be at least 0, was -1"):
        SharpeMoments(-1, 0.1)
    with pytest.raises(DataError, match=r"shape \(n_periods,\), had \(2, 2\)"):
        SharpeMoments.of(np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="trials must be at least 1, was 0"):
        expected_maximum(0)
    with pytest.raises(ConfigError, match="of 3 trials must be a number of at least 0, was None"):
        deflated_sharpe(moments, trials=3)
    with pytest.raises(ConfigError, match=r"must be in \(0.5, 1\), was 0.5"):
        minimum_track_record(moments, confidence=0.5)
    with pytest.raises(ConfigError, match="sharpe must be positive, was 0"):
        minimum_backtest_length(10, 0.0)
    with pytest.raises(ConfigError, match="trials must be at least 1, was 0"):
        independent_trials(0, 0.0)
    with pytest.raises(ConfigError, match=r"mean_correlation must be in \[-1, 1\], was 2"):
        independent_trials(3, 2.0)
