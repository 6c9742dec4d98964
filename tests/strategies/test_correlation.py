import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.correlation import GroupFinder, correlated_groups, correlations
from strategies.risk_policy import FoundGroups

NAMES = ("A", "B", "C", "D")
BAR = 900 * 10**9
DAY = 96 * BAR


def returns(seed=1, n_bars=400, loadings=(1.0, 1.0, 0.0, 0.0), noise=0.3):
    generator = np.random.default_rng(seed)
    common = generator.normal(size=(n_bars, 1)) * np.array(loadings)
    return 1e-3 * (common + noise * generator.normal(size=(n_bars, len(loadings))))


def test_correlations_are_those_of_numpy():
    values = returns()
    assert correlations(values, 3) == pytest.approx(np.corrcoef(values.T), abs=1e-12)


def test_with_holes_each_pair_counts_what_it_shares():
    values = returns()
    values[::3, 0] = np.nan
    values[::5, 1] = np.nan
    both = np.isfinite(values[:, 0]) & np.isfinite(values[:, 1])
    expected = np.corrcoef(values[both, 0], values[both, 1])[0, 1]
    assert correlations(values, 3)[0, 1] == pytest.approx(expected, abs=1e-12)


def test_what_moves_together_is_one_group():
    assert correlated_groups(returns(), NAMES, 0.8) == (frozenset("AB"),)
    assert correlated_groups(returns(loadings=(1, 0, 1, 1)), NAMES, 0.8) == (frozenset("ACD"),)


def test_opposite_moves_are_no_group():
    assert correlated_groups(returns(loadings=(1, -1, 0, 0)), NAMES, 0.8) == ()


def test_a_chain_is_one_group_though_its_ends_are_apart():
    generator = np.random.default_rng(2)
    first, last = generator.normal(size=(2, 4000)) * 1e-3
    values = np.stack([first, (first + last) / math.sqrt(2), last], axis=1)
    assert abs(correlations(values, 3)[0, 2]) < 0.1
    assert correlated_groups(values, ("A", "B", "C"), 0.6) == (frozenset("ABC"),)


def test_the_unknown_counts_as_correlated():
    values = returns(loadings=(0, 0, 0, 0))
    assert correlated_groups(values, NAMES, 0.8) == ()
    still = values.copy()
    still[:, 3] = 0.0
    assert correlated_groups(still, NAMES, 0.8) == (frozenset("ABCD"),)
    assert correlated_groups(values, NAMES, 0.8, min_bars=401) == (frozenset("ABCD"),)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.95), st.permutations(range(6)))
def test_every_pair_above_the_limit_is_together_whatever_the_order(seed, limit, order):
    values = returns(seed, 60, loadings=(1, 1, 0.7, 0.5, 0.3, 0), noise=0.7)
    names = tuple("ABCDEF")
    groups = correlated_groups(values, names, limit)
    found = correlations(values, 3)
    for i in range(6):
        for j in range(i):
            together = any({names[i], names[j]} <= group for group in groups)
            assert together or found[i, j] < limit
    mixed = correlated_groups(values[:, order], [names[one] for one in order], limit)
    assert set(mixed) == set(groups)


def test_names_must_fit_the_columns():
    with pytest.raises(ValueError, match=r"shape \(n_bars, 4\), was \(400, 3\)"):
        correlated_groups(returns()[:, :3], NAMES, 0.8)


def closes_of(values):
    return [
        dict(zip(NAMES, row, strict=True)) for row in np.exp(np.cumsum(values, axis=0)).tolist()
    ]


def test_a_finder_looks_once_a_day_and_forgets_what_is_older_than_its_window():
    config = FoundGroups(limit=0.8, window_bars=96, min_bars=20)
    values = np.concatenate([returns(n_bars=384), returns(3, 384, (0, 0, 1, 1))])
    closes = closes_of(values)
    early, late = GroupFinder(NAMES, config), GroupFinder(NAMES, config)
    found = {index: early.update(index * BAR, one) for index, one in enumerate(closes)}
    looked = [index for index, groups in found.items() if groups is not None]
    assert looked == list(range(0, 768, 96))
    assert found[288] == (frozenset("AB"),)
    assert found[672] == (frozenset("CD"),)
    # Begun in another bar of another day, once its window is full.
    again = [late.update(index * BAR, closes[index]) for index in range(500, 768)]
    assert again[672 - 500] == found[672]


def test_a_return_over_a_missing_bar_is_left_out():
    finder = GroupFinder(NAMES, FoundGroups(window_bars=4, min_bars=3))
    finder.update(0, dict.fromkeys(NAMES, 1.0))
    finder.update(BAR, {"A": 2.0, "B": 2.0})
    finder.update(2 * BAR, dict.fromkeys(NAMES, 3.0))
    row = finder._window.returns()[-1]
    assert np.isfinite(row).tolist() == [True, True, False, False]
