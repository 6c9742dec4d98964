from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from catalog.arrays import BarArrays, SeriesArrays
from catalog.errors import AuditFailedError, DataError
from research import labels as labels_module
from research.features import FeatureConfig, FeatureMatrix, compute_features
from research.labels import LabelConfig
from research.lookahead import (
    Columns,
    audit_features,
    audit_function,
    audit_labels,
    choose_cuts,
)
from research.panel import Panel
from research.perturbations import PERTURBATIONS, perturbed
from tests.research.markets import BTC, EVERYTHING, Market

# ---------------------------------------------------------------------------------------------
# Planted leaks are caught, each by name, with the time and both values.

type Column = Callable[[BarArrays, SeriesArrays], NDArray[np.float64]]


def shifted(values: NDArray[np.float64], by: int) -> NDArray[np.float64]:
    """Return values from `by` rows later, as ``Series.shift(-by)`` does."""
    result = np.full(len(values), np.nan)
    result[: len(values) - by] = values[by:]
    return result


def next_close(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    return shifted(bars.close, 1)


def next_sign(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    return np.sign(shifted(bars.close, 1) - bars.close)


def saturated(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    """Tell only whether the next bar rises by more than almost anything does."""
    return np.tanh(1e3 * (shifted(bars.close, 1) / bars.close - 1.2))


def next_volume_rank(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    return (shifted(bars.volume, 1) > bars.volume).astype(np.float64)


def centred_mean(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    return np.convolve(bars.close, np.full(3, 1 / 3), mode="same")


def global_standard(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    return (bars.close - bars.close.mean()) / bars.close.std()


def global_rank(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    return np.argsort(np.argsort(bars.close)) / len(bars)


def last_close_of_all(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    return np.full(len(bars), float(len(bars)))


def backfilled_funding(bars: BarArrays, funding: SeriesArrays) -> NDArray[np.float64]:
    """Use the rate that will be settled next."""
    rows = np.searchsorted(funding.ts_init, bars.ts_init, side="right")
    return np.append(funding.value, np.nan)[rows]


def funding_as_of_its_event(bars: BarArrays, funding: SeriesArrays) -> NDArray[np.float64]:
    """Join on when a rate was settled instead of on when it was known."""
    rows = np.searchsorted(funding.ts_event, bars.ts_init, side="right") - 1
    return np.where(rows >= 0, np.append(funding.value, np.nan)[rows], np.nan)


def minutes_to_next_bar(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
    return shifted(bars.ts_init.astype(np.float64), 1) - bars.ts_init


LEAKS = [
    next_close,
    next_sign,
    saturated,
    next_volume_rank,
    centred_mean,
    global_standard,
    global_rank,
    last_close_of_all,
    backfilled_funding,
    funding_as_of_its_event,
    minutes_to_next_bar,
]


def with_column(column: Column, name: str) -> Callable[[Panel], Columns]:
    """Return a computation of an honest column and of one more."""

    def compute(panel: Panel) -> Columns:
        ts_init = np.concatenate([bars.ts_init for bars in panel.bars])
        codes = np.repeat(np.arange(len(panel.bars)), [len(bars) for bars in panel.bars])
        planted = [column(bars, panel.funding[bars.instrument_id]) for bars in panel.bars]
        honest = np.concatenate([bars.close for bars in panel.bars])
        values = np.column_stack([honest, np.concatenate(planted)])
        return Columns(ts_init, codes, values, ("honest", name))

    return compute


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_planted_leaks_are_caught(leak: Column) -> None:
    panel = Market(1, 400).panel()
    cuts = choose_cuts(panel, after=int(panel.bars[0].ts_init[50]))
    cuts += [_before_late_funding(panel)]
    violations = audit_function(with_column(leak, leak.__name__), panel, cuts)
    assert violations
    assert {violation.name for violation in violations} == {leak.__name__}
    for violation in violations:
        assert violation.ts_init <= violation.cut
        assert violation.rows >= 1
        assert violation.before != violation.after
    first = violations[0]
    assert str(first).startswith(f"{leak.__name__} looks ahead: with everything after ")
    assert repr(first.before) in str(first)


def _before_late_funding(panel: Panel) -> int:
    """Return a time between a settlement and when it became known, on a bar of that time."""
    series = panel.funding[BTC]
    late = np.flatnonzero(series.ts_init > series.ts_event + panel.interval_ns)
    return int(series.ts_event[late[len(late) // 2]])


def test_a_leak_of_the_next_bar_is_located_to_the_bar() -> None:
    panel = Market(2, 400).panel()
    cut = int(panel.bars[1].ts_init[200])
    (violation, *_) = [
        violation
        for violation in audit_function(with_column(next_close, "leak"), panel, [cut])
        if violation.perturbation == "changed in the next bar"
    ]
    assert violation.ts_init == cut
    assert violation.instrument == panel.instruments()[0]
    assert violation.rows == 3
    assert violation.before == panel.bars[0].close[201]
    assert violation.after == panel.bars[0].close[201] * 0.5


def test_rows_that_depend_on_the_future_are_caught() -> None:
    def only_bars_that_have_a_next(panel: Panel) -> Columns:
        rows = np.concatenate([bars.ts_init[:-1] for bars in panel.bars[:1]])
        return Columns(rows, np.zeros(len(rows), dtype=np.int64), np.ones((len(rows), 1)))

    panel = Market(3, 100).panel()
    violations = audit_function(only_bars_that_have_a_next, panel, [int(panel.bars[0].ts_init[50])])
    (violation,) = violations
    assert (violation.name, violation.perturbation) == ("rows", "cut off")
    assert (violation.before, violation.after) == (1.0, 0.0)


def test_nan_appearing_with_the_future_is_caught() -> None:
    def known_only_later(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
        return np.where(np.isnan(shifted(bars.close, 3)), np.nan, 1.0)

    panel = Market(4, 100).panel()
    cut = int(panel.bars[0].ts_init[60])
    violations = audit_function(with_column(known_only_later, "leak"), panel, [cut])
    assert violations
    assert np.isnan(violations[0].after)


def test_one_bit_is_enough() -> None:
    def almost_honest(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
        hint = shifted(bars.close, 1) > bars.close
        return np.where(hint, np.nextafter(bars.close, np.inf), bars.close)

    panel = Market(5, 300).panel()
    cuts = choose_cuts(panel, after=int(panel.bars[0].ts_init[10]))
    assert audit_function(with_column(almost_honest, "leak"), panel, cuts)


def test_honest_columns_pass() -> None:
    def trailing(bars: BarArrays, _: SeriesArrays) -> NDArray[np.float64]:
        return np.cumsum(bars.close) / np.arange(1, len(bars) + 1)

    panel = Market(6, 400, missing=0.1).panel()
    cuts = choose_cuts(panel, after=int(panel.bars[0].ts_init[50]))
    assert len(cuts) >= 8
    assert audit_function(with_column(trailing, "honest too"), panel, cuts) == []


# ---------------------------------------------------------------------------------------------
# The feature table and the labels.


@pytest.mark.parametrize("market", [Market(7), Market(8, missing=0.1), Market(9, gap=(1_050, 30))])
def test_no_feature_looks_ahead(market: Market) -> None:
    assert audit_features(market.panel(), EVERYTHING) == []


def test_a_leak_planted_among_the_features_is_caught() -> None:
    def leaking(panel: Panel, config: FeatureConfig) -> FeatureMatrix:
        matrix = compute_features(panel, config)
        values = matrix.values.copy()
        column = matrix.names.index("zscore_20")
        values[:, column] = np.concatenate([shifted(bars.close, 1) for bars in panel.bars])
        return replace(matrix, values=values)

    violations = audit_features(Market(10).panel(), EVERYTHING, compute=leaking)
    assert {violation.name for violation in violations} == {"zscore_20"}


def test_a_feature_that_is_not_in_the_table_fails() -> None:
    def with_stranger(panel: Panel, config: FeatureConfig) -> FeatureMatrix:
        matrix = compute_features(panel, config)
        extra = np.ones((len(matrix.ts_init), 1))
        return replace(
            matrix, names=(*matrix.names, "stranger"), values=np.hstack([matrix.values, extra])
        )

    with pytest.raises(AuditFailedError, match=r"must be in the feature table.*: stranger"):
        audit_features(Market(11).panel(), EVERYTHING, compute=with_stranger)


def test_a_feature_without_a_value_proves_nothing_and_fails() -> None:
    panel = Market(12).panel()
    # Beside an instrument that does not trade there is nothing to compare with.
    pair = (panel.bars[0], panel.bars[1].between(None, 0))
    silent = replace(panel, bars=pair, funding={})
    with pytest.raises(AuditFailedError, match="none: peers_return_1, peers_return_4"):
        audit_features(silent, FeatureConfig(peers=True, funding=False))


@pytest.mark.parametrize("horizon", [1, 4, 16])
def test_labels_look_no_further_ahead_than_they_say(horizon: int) -> None:
    panel = Market(13, 300, missing=0.05).panel()
    assert audit_labels(panel, LabelConfig(horizon_bars=horizon)) == []


def test_a_label_that_looks_one_bar_further_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = labels_module._forward_return
    monkeypatch.setattr(
        labels_module,
        "_forward_return",
        lambda bars, ahead: honest(bars, ahead + bars.interval_ns),
    )
    panel = Market(14, 300).panel()
    violations = audit_labels(panel, LabelConfig(horizon_bars=4))
    assert {violation.name for violation in violations} == {"label", "forward_return"}


# ---------------------------------------------------------------------------------------------
# Cuts and perturbations.


def test_perturbations_leave_the_past_alone_and_change_the_future() -> None:
    panel = Market(15, 200).panel()
    cut = int(panel.bars[0].ts_init[100])
    kinds = []
    for kind, changed in perturbed(panel, cut):
        kinds.append(kind)
        before, after = panel.truncated(cut), changed.truncated(cut)
        for one, other in zip(before.bars, after.bars, strict=True):
            for name in ("ts_init", "open", "high", "low", "close", "volume"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for name, series in before.funding.items():
            np.testing.assert_array_equal(series.value, after.funding[name].value)
        for one, other in zip(panel.bars, changed.bars, strict=True):
            assert len(other) < len(one) or other.close[101] != one.close[101]
    assert kinds == list(PERTURBATIONS)


def test_perturbed_bars_are_still_bars() -> None:
    panel = Market(16, 200).panel()
    for _, changed in perturbed(panel, int(panel.bars[0].ts_init[100])):
        compute_features(changed, EVERYTHING)  # refuses bars that are not sound


def test_perturbations_are_the_same_every_time() -> None:
    panel = Market(17, 200).panel()
    cut = int(panel.bars[0].ts_init[100])
    for (_, one), (_, other) in zip(perturbed(panel, cut), perturbed(panel, cut), strict=True):
        np.testing.assert_array_equal(one.bars[0].close, other.bars[0].close)
    first, second = (list(perturbed(panel, cut, seed))[1][1] for seed in (0, 1))
    assert not np.array_equal(first.bars[0].close, second.bars[0].close)


def test_cuts_lie_before_events() -> None:
    panel = Market(18, 500, gap=(200, 20)).panel()
    after = int(panel.bars[0].ts_init[50])
    cuts = choose_cuts(panel, after=after)
    assert min(cuts) >= after
    assert max(cuts) < max(int(bars.ts_init[-1]) for bars in panel.bars)
    gapped = panel.bars[18 % 3]
    assert int(gapped.ts_init[199]) in cuts
    moves = np.abs(np.diff(np.log(panel.bars[1].close)))[50:]
    assert int(panel.bars[1].ts_init[50 + int(np.argmax(moves))]) in cuts
    assert any(cut + 1 in panel.funding[BTC].ts_init for cut in cuts)


def test_cuts_that_would_prove_nothing_are_refused() -> None:
    panel = Market(19, 100).panel()
    compute = with_column(next_close, "leak")
    with pytest.raises(DataError, match="cuts must hold at least one time"):
        audit_function(compute, panel, [])
    with pytest.raises(DataError, match="cut must have values before it"):
        audit_function(compute, panel, [0])
    with pytest.raises(DataError, match="cut must have bars after it"):
        audit_function(compute, panel, [int(panel.bars[0].ts_init[-1])])
    with pytest.raises(DataError, match="panel must have bars after"):
        choose_cuts(panel, after=int(panel.bars[0].ts_init[-1]))
    with pytest.raises(DataError, match="panel must have bars after"):
        audit_features(panel, EVERYTHING)  # still warming up


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[str, int, int]] = []
    panel = Market(20, 100).panel()
    audit_function(
        with_column(next_close, "leak"),
        panel,
        [int(panel.bars[0].ts_init[50])],
        progress=lambda *state: told.append(state),
    )
    assert told[-1] == ("look-ahead", len(PERTURBATIONS), len(PERTURBATIONS))
