from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catalog.arrays import BarArrays
from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_MINUTE
from research import lookahead
from research.features import FeatureConfig, compute_features
from research.kernel_tools import MAX_CARRIED
from research.labels import LabelConfig, Labels, average_uniqueness, compute_labels
from research.lookahead import audit_labels
from research.panel import Panel
from research.splits import ValidationConfig, inner_blocks, walk_forward_splits
from tests.research.markets import Market, take
from tests.research.test_labels import uniqueness_by_definition

INTERVAL = 15 * NS_PER_MINUTE
NAN = math.nan
KINDS = ("volatility_scaled", "triple_barrier", "meta")


def market(seed: int, slots: int, missing: float) -> Panel:
    return replace(Market(seed, slots, missing=missing).panel(), funding={})


def random_side(panel: Panel, seed: int = 0) -> NDArray[np.int64]:
    n_rows = sum(len(bars) for bars in panel.bars)
    return np.random.default_rng(seed).integers(-1, 2, n_rows)


def labels_of(panel: Panel, config: LabelConfig, side: NDArray[Any] | None = None) -> Labels:
    if config.kind == "meta" and side is None:
        side = random_side(panel)
    return compute_labels(panel, config, side=side)


@st.composite
def configs(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> LabelConfig:
    # No width of 1: prices on a grid come back to where they were, and ties hang on one bit.
    kind = draw(st.sampled_from(kinds))
    own: dict[str, Any] = {"volatility_bars": draw(st.sampled_from([2, 5, 20]))}
    if kind == "volatility_scaled":
        own["dead_zone"] = draw(st.sampled_from([0.0, 0.27, 1.1]))
    else:
        own["barrier_multiple"] = draw(st.sampled_from([0.3, 1.1, 2.5]))
        own["at_timeout"] = draw(st.sampled_from(["sign", "unknown"]))
    return LabelConfig.model_validate(
        {"kind": kind, "horizon_bars": draw(st.integers(1, 12)), **own}
    )


# ---------------------------------------------------------------------------------------------
# A slow literal form of every label.


def volatility_by_definition(bars: BarArrays, window: int) -> list[float]:
    """Write the last known close into every slot, then look at each window of slots."""
    slots = (bars.ts_init // INTERVAL).tolist()
    close_at = dict(zip(slots, bars.close.tolist(), strict=True))
    result = []
    known, last, begun = {}, -MAX_CARRIED, 0
    for slot in range(slots[0], slots[-1] + 1):
        if slot in close_at:
            if slot - last > MAX_CARRIED:
                begun = slot
            last, known[slot] = slot, close_at[slot]
            window_of = range(slot - window + 1, slot + 1)
            result.append(
                math.sqrt(
                    sum(math.log(known[at] / known[at - 1]) ** 2 for at in window_of) / window
                )
                if slot - begun >= window
                else NAN
            )
        else:
            known[slot] = close_at[last]
    return result


def label_by_definition(
    bars: BarArrays, row: int, config: LabelConfig, volatility: float, side: float | None
) -> tuple[float, int, float]:
    """Return value, time of decision and return of one bar's label."""
    close, start = bars.close[row], int(bars.ts_init[row])
    end = start + config.horizon_bars * INTERVAL
    at_end = bars.close[bars.ts_init == end]
    forward = at_end[0] / close - 1.0 if len(at_end) else NAN
    unit = volatility * math.sqrt(config.horizon_bars)
    if config.kind == "volatility_scaled":
        is_large = unit > 0.0 and abs(math.log1p(forward)) >= config.dead_zone * unit
        return (sign_value(forward) if is_large else NAN), end, NAN
    if not unit > 0.0:
        return NAN, end, NAN
    upper = close * math.exp(config.barrier_multiple * unit)
    lower = close * math.exp(-config.barrier_multiple * unit)
    for later in range(row + 1, len(bars)):
        if bars.ts_init[later] > end:
            break
        first, high, low = bars.open[later], bars.high[later], bars.low[later]
        if high < upper and low > lower:
            continue
        decided = int(bars.ts_init[later])
        inside = lower < first < upper
        if inside and high >= upper and low <= lower:
            if side is None:
                return NAN, decided, NAN
            worse = lower if side > 0 else upper
            return (0.0, decided, worse / close - 1.0) if side else (NAN, decided, NAN)
        is_up = first >= upper or (inside and high >= upper)
        price = max(first, upper) if is_up else min(first, lower)
        won = (1.0 if is_up else -1.0) * (1.0 if side is None else side)
        return sign_value(won), decided, price / close - 1.0
    known = forward if config.at_timeout == "sign" else NAN
    return sign_value(known * (1.0 if side is None else side)), end, forward


def sign_value(number: float) -> float:
    return NAN if math.isnan(number) or number == 0.0 else float(number > 0.0)


@settings(max_examples=60, deadline=None)
@given(
    config=configs(),
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_labels_match_a_literal_reference(config: LabelConfig, seed: int, missing: float) -> None:
    panel = market(seed, 90, missing)
    side = random_side(panel, seed) if config.kind == "meta" else None
    found = labels_of(panel, config, side)
    ahead = config.horizon_bars * INTERVAL
    offset = 0
    for bars in panel.bars:
        volatility = volatility_by_definition(bars, config.volatility_bars)
        expected = [
            label_by_definition(
                bars, row, config, volatility[row], None if side is None else side[offset + row]
            )
            for row in range(len(bars))
        ]
        rows = slice(offset, offset + len(bars))
        value, decided, returns = (np.array(column) for column in zip(*expected, strict=True))
        np.testing.assert_array_equal(found.value[rows], value)
        np.testing.assert_array_equal(found.ts_end[rows], bars.ts_init + ahead)
        if found.ts_decided is not None and found.barrier_return is not None:
            np.testing.assert_array_equal(found.ts_decided[rows], decided)
            np.testing.assert_allclose(found.barrier_return[rows], returns, rtol=1e-9, atol=1e-12)
        else:
            assert config.kind == "volatility_scaled"
        offset += len(bars)


def test_the_volatility_is_that_of_the_features() -> None:
    # Seen through a dead zone of exactly one move: it tells what the volatility is.
    panel = market(1, 1_300, 0.1)
    matrix = compute_features(panel, FeatureConfig(funding=False))
    valid = matrix.valid
    column = {name: matrix.values[:, place] for place, name in enumerate(matrix.names)}
    volatility = column["volatility_20"] / column["volatility_ratio"]
    forward = np.log1p(compute_labels(panel, LabelConfig(horizon_bars=4)).forward_return)
    moves = np.abs(forward) / (2.0 * volatility)
    for dead_zone in (0.1, 0.7, 1.3):
        config = LabelConfig(kind="volatility_scaled", horizon_bars=4, dead_zone=dead_zone)
        known = ~np.isnan(compute_labels(panel, config).value)
        clear = valid & (np.abs(moves - dead_zone) > 1e-9)
        assert clear.sum() > 700
        np.testing.assert_array_equal(known[clear], moves[clear] > dead_zone)


# ---------------------------------------------------------------------------------------------
# Small cases by hand.


def by_hand(*later: tuple[float, float, float, float]) -> Panel:
    """Return bars that alternate between 100 and 101 and then go as told."""
    before = [100.0 + row % 2 for row in range(11)]
    rows = [(value, value, value, value) for value in before] + list(later)
    columns = [np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)]
    ts_init = (1_000 + np.arange(len(rows))) * INTERVAL
    return Panel(
        INTERVAL,
        (BarArrays("I", INTERVAL, ts_init, *columns, np.ones(len(rows))),),
        {},
        "hash",
        False,
    )


def ten(kind: str = "triple_barrier", **own: Any) -> LabelConfig:
    """Return barriers of log(1.01) * 2 around 100, that is from 98.03 to 102.01, for 4 bars."""
    settings = {"horizon_bars": 4, "volatility_bars": 10, "barrier_multiple": 1.0, **own}
    return LabelConfig.model_validate({"kind": kind, **settings})


FLAT = (100.0, 100.5, 99.5, 100.0)
UP = (100.0, 103.0, 99.0, 100.0)
DOWN = (100.0, 101.0, 97.0, 100.0)
WILD = (100.0, 103.0, 97.0, 100.0)
GAP_UP = (104.0, 105.0, 97.0, 100.0)
GAP_DOWN = (97.0, 103.0, 96.0, 100.0)
RISE = (100.0, 101.0, 100.0, 101.0)


@pytest.mark.parametrize(
    ("later", "bars", "value", "exit_price"),
    [
        ([FLAT, UP, DOWN, FLAT], 2, 1.0, 100.0 * 1.01**2),
        ([DOWN, UP, UP, UP], 1, 0.0, 100.0 / 1.01**2),
        ([FLAT, FLAT, WILD, UP], 3, NAN, NAN),
        ([FLAT, FLAT, GAP_UP, DOWN], 3, 1.0, 104.0),
        ([GAP_DOWN, UP, UP, UP], 1, 0.0, 97.0),
        ([FLAT, FLAT, FLAT, RISE], 4, 1.0, 101.0),
        ([FLAT, FLAT, FLAT, UP], 4, 1.0, 100.0 * 1.01**2),  # the bar of the time-out still counts
        ([FLAT, FLAT, FLAT, FLAT], 4, NAN, 100.0),
        ([FLAT, FLAT, FLAT, FLAT, UP], 4, NAN, 100.0),  # and the one after it does not
        ([FLAT, FLAT, FLAT], 4, NAN, NAN),
    ],
)
def test_the_barrier_touched_first_decides(
    later: list[Any], bars: int, value: float, exit_price: float
) -> None:
    labels = compute_labels(by_hand(*later), ten())
    assert labels.ts_decided is not None
    assert labels.barrier_return is not None
    np.testing.assert_array_equal(labels.value[10], value)
    assert labels.ts_decided[10] == (1_010 + bars) * INTERVAL
    np.testing.assert_allclose(labels.barrier_return[10], exit_price / 100.0 - 1.0, rtol=1e-9)
    assert labels.ts_end[10] == 1_014 * INTERVAL


def test_a_trade_loses_where_both_barriers_are_reached_within_a_bar() -> None:
    for side, value, price in (
        (1, 0.0, 100.0 / 1.01**2),
        (-1, 0.0, 100.0 * 1.01**2),
        (0, NAN, NAN),
    ):
        sides = np.full(15, side)
        labels = compute_labels(by_hand(FLAT, WILD, UP, UP), ten("meta"), side=sides)
        assert labels.barrier_return is not None
        np.testing.assert_array_equal(labels.value[10], value)
        np.testing.assert_allclose(labels.barrier_return[10], price / 100.0 - 1.0, rtol=1e-9)


def test_what_a_time_out_means_is_a_setting() -> None:
    panel = by_hand(FLAT, FLAT, FLAT, RISE)
    assert compute_labels(panel, ten()).value[10] == 1.0
    unknown = compute_labels(panel, ten(at_timeout="unknown"))
    assert np.isnan(unknown.value[10])
    assert unknown.barrier_return is not None
    assert unknown.barrier_return[10] == unknown.forward_return[10]


def test_the_dead_zone_is_measured_in_volatility() -> None:
    panel = by_hand(RISE)
    for dead_zone, value in ((0.99, 1.0), (1.01, NAN)):
        config = LabelConfig(
            kind="volatility_scaled", horizon_bars=1, volatility_bars=10, dead_zone=dead_zone
        )
        np.testing.assert_array_equal(compute_labels(panel, config).value[10], value)


@pytest.mark.parametrize("kind", KINDS)
def test_without_history_or_movement_nothing_is_known(kind: str) -> None:
    config = LabelConfig.model_validate({"kind": kind, "horizon_bars": 3, "volatility_bars": 20})
    panel = market(2, 60, 0.0)
    labels = labels_of(panel, config, np.ones(180) if kind == "meta" else None)
    for number in range(3):
        assert np.isnan(labels.value[60 * number : 60 * number + 20]).all()
        assert np.isfinite(labels.value[60 * number + 20 : 60 * number + 57]).any()
    still = replace(Market(3, 60, still=True).panel(), funding={})
    assert np.isnan(labels_of(still, config).value).all()


def test_a_panel_without_bars_has_no_labels() -> None:
    panel = market(4, 60, 0.0).truncated(0)
    for kind in KINDS:
        config = LabelConfig.model_validate({"kind": kind, "horizon_bars": 3})
        assert labels_of(panel, config).value.shape == (0,)


# ---------------------------------------------------------------------------------------------
# Spans: what they say is what is looked at.


@settings(max_examples=60, deadline=None)
@given(
    config=configs(),
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.2]),
    cut=st.integers(25, 85),
)
def test_what_was_decided_before_a_cut_does_not_move(
    config: LabelConfig, seed: int, missing: float, cut: int
) -> None:
    panel = market(seed, 90, missing)
    at = int(panel.bars[0].ts_init[0]) + cut * INTERVAL
    known = panel.truncated(at)
    rows = np.concatenate([bars.ts_init <= at for bars in panel.bars])
    side = random_side(panel, seed) if config.kind == "meta" else None
    full = labels_of(panel, config, side)
    part = labels_of(known, config, None if side is None else side[rows])
    ends = full.ts_end if full.ts_decided is None else full.ts_decided
    part_ends = part.ts_end if part.ts_decided is None else part.ts_decided
    decided = ends[rows] <= at
    np.testing.assert_array_equal(part_ends <= at, decided)
    np.testing.assert_array_equal(part_ends[decided], ends[rows][decided])
    for name in ("value", "weight", "barrier_return"):
        one, other = getattr(full, name), getattr(part, name)
        if one is not None:
            np.testing.assert_array_equal(one[rows][decided], other[decided])
    over = full.ts_end[rows] <= at
    np.testing.assert_array_equal(full.forward_return[rows][over], part.forward_return[over])


@pytest.mark.parametrize("kind", ["volatility_scaled", "triple_barrier"])
@pytest.mark.parametrize("horizon", [1, 16])
def test_no_label_looks_past_its_span(kind: str, horizon: int) -> None:
    config = LabelConfig.model_validate(
        {"kind": kind, "horizon_bars": horizon, "volatility_bars": 20}
    )
    assert audit_labels(market(5, 300, 0.05), config) == []


def test_a_barrier_that_claims_to_be_decided_too_early_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = lookahead.compute_labels

    def hasty(panel: Panel, config: LabelConfig) -> Labels:
        labels = honest(panel, config)
        assert labels.ts_decided is not None
        return replace(labels, ts_decided=labels.ts_decided - panel.interval_ns)

    monkeypatch.setattr(lookahead, "compute_labels", hasty)
    config = LabelConfig(kind="triple_barrier", horizon_bars=16)
    found = {violation.name for violation in audit_labels(market(5, 300, 0.0), config)}
    assert {"label", "barrier_return"} <= found or "rows" in found


@settings(max_examples=30, deadline=None)
@given(config=configs(), seed=st.integers(0, 10_000))
def test_spans_lie_between_the_bar_and_the_horizon(config: LabelConfig, seed: int) -> None:
    panel = market(seed, 90, 0.1)
    labels = labels_of(panel, config)
    ts_init = np.concatenate([bars.ts_init for bars in panel.bars])
    decided = labels.ts_end if labels.ts_decided is None else labels.ts_decided
    assert np.all((ts_init < decided) & (decided <= labels.ts_end))
    assert np.all(labels.ts_end == ts_init + config.horizon_bars * INTERVAL)
    assert np.all((labels.weight > 0.0) & (labels.weight <= 1.0))


@settings(max_examples=20, deadline=None)
@given(config=configs(), seed=st.integers(0, 10_000), embargo=st.integers(0, 5))
def test_no_training_row_looks_past_the_cut(config: LabelConfig, seed: int, embargo: int) -> None:
    panel = market(seed, 200, 0.05)
    labels = labels_of(panel, config)
    ts_init = np.concatenate([bars.ts_init for bars in panel.bars])
    first = int(ts_init.min())
    validation = ValidationConfig(
        n_folds=3,
        test_start=first + 80 * INTERVAL,
        embargo_bars=embargo,
        min_train_rows=10,
    )
    folds = walk_forward_splits(ts_init, labels.ts_end, validation, INTERVAL)
    assert len(folds) == 3
    for fold in folds:
        assert labels.ts_end[fold.train].max() <= fold.test_start - embargo * INTERVAL
        if labels.ts_decided is not None:
            assert labels.ts_decided[fold.train].max() <= fold.test_start - embargo * INTERVAL
        # Whatever comes after the cut, what is trained on stays as it is.
        known = panel.truncated(fold.test_start)
        rows = np.concatenate([bars.ts_init <= fold.test_start for bars in panel.bars])
        side = random_side(panel)[rows] if config.kind == "meta" else None
        part = labels_of(known, config, side)
        place = np.cumsum(rows) - 1
        for name in ("value", "forward_return", "weight", "ts_end", "barrier_return"):
            one, other = getattr(labels, name), getattr(part, name)
            if one is not None:
                np.testing.assert_array_equal(one[fold.train], other[place[fold.train]])
    for train, held_out in inner_blocks(ts_init, labels.ts_end, 3, embargo * INTERVAL):
        before = ts_init[train] < ts_init[held_out].min()
        assert np.all(labels.ts_end[train[before]] <= ts_init[held_out].min())
        assert np.all(ts_init[train[~before]] >= labels.ts_end[held_out].max())


@given(
    spans=st.dictionaries(st.integers(1, 60), st.integers(1, 20), min_size=1, max_size=40),
)
def test_uniqueness_of_spans_of_any_length_matches_its_definition(spans: dict[int, int]) -> None:
    slots = sorted(spans)
    lengths = [spans[slot] for slot in slots]
    found = average_uniqueness(np.array(slots) * INTERVAL, np.array(lengths) * INTERVAL)
    covering = {
        moment: sum(slot <= moment < slot + spans[slot] for slot in slots) for moment in range(90)
    }
    expected = [
        sum(1.0 / covering[moment] for moment in range(slot, slot + spans[slot])) / spans[slot]
        for slot in slots
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.all((found > 0.0) & (found <= 1.0))


def test_weights_are_those_of_the_true_spans() -> None:
    panel = market(6, 120, 0.1)
    config = LabelConfig(kind="triple_barrier", horizon_bars=8, volatility_bars=20)
    labels = compute_labels(panel, config)
    fixed = compute_labels(panel, LabelConfig(horizon_bars=8))
    assert labels.ts_decided is not None
    assert labels.weight.mean() > 1.3 * fixed.weight.mean()
    slots = (panel.bars[0].ts_init // INTERVAL).tolist()
    np.testing.assert_allclose(
        fixed.weight[: len(slots)], uniqueness_by_definition(slots, 8), rtol=1e-9
    )


# ---------------------------------------------------------------------------------------------
# What must and must not matter.


def changed(panel: Panel, **columns: Any) -> Panel:
    """Return a panel with columns of its bars made anew from themselves."""
    bars = tuple(
        replace(one, **{name: make(one) for name, make in columns.items()}) for one in panel.bars
    )
    return replace(panel, bars=bars)


@settings(max_examples=20, deadline=None)
@given(config=configs(), seed=st.integers(0, 10_000), power=st.integers(-6, 6))
def test_neither_scale_nor_time_changes_a_label(config: LabelConfig, seed: int, power: int) -> None:
    panel = market(seed, 90, 0.1)
    shift = 7 * 96 * 20 * INTERVAL
    names = ("open", "high", "low", "close")
    moved = changed(
        panel,
        ts_init=lambda bars: bars.ts_init + shift,
        **{name: lambda bars, name=name: getattr(bars, name) * 2.0**power for name in names},
    )
    one, other = labels_of(panel, config), labels_of(moved, config)
    np.testing.assert_array_equal(other.ts_end, one.ts_end + shift)
    for name in ("value", "forward_return", "weight", "barrier_return"):
        if getattr(one, name) is not None:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def reflected(panel: Panel) -> Panel:
    """Return a panel in which every rise is a fall."""
    return changed(
        panel,
        open=lambda bars: 1.0 / bars.open,
        high=lambda bars: 1.0 / bars.low,
        low=lambda bars: 1.0 / bars.high,
        close=lambda bars: 1.0 / bars.close,
    )


@settings(max_examples=20, deadline=None)
@given(config=configs(), seed=st.integers(0, 10_000))
def test_up_and_down_are_treated_alike(config: LabelConfig, seed: int) -> None:
    panel = market(seed, 90, 0.1)
    side = random_side(panel, seed) if config.kind == "meta" else None
    one = labels_of(panel, config, side)
    other = labels_of(reflected(panel), config, None if side is None else -side)
    # A trade on the other side of the reflected market is the same trade.
    expected = one.value if config.kind == "meta" else 1.0 - one.value
    np.testing.assert_array_equal(other.value, expected)
    np.testing.assert_array_equal(other.weight, one.weight)


@settings(max_examples=20, deadline=None)
@given(config=configs(("meta",)), seed=st.integers(0, 10_000))
def test_meta_labels_agree_with_the_barriers(config: LabelConfig, seed: int) -> None:
    panel = market(seed, 90, 0.1)
    plain = LabelConfig.model_validate({**config.model_dump(), "kind": "triple_barrier"})
    up = compute_labels(panel, plain).value
    n_rows = len(up)
    right = np.where(up == 1.0, 1, np.where(up == 0.0, -1, 0))
    won = compute_labels(panel, config, side=right).value
    np.testing.assert_array_equal(won, np.where(right != 0, 1.0, NAN))
    lost = compute_labels(panel, config, side=-right).value
    np.testing.assert_array_equal(lost, np.where(right != 0, 0.0, NAN))
    nothing = compute_labels(panel, config, side=np.zeros(n_rows))
    assert np.isnan(nothing.value).all()
    np.testing.assert_array_equal(nothing.weight, compute_labels(panel, plain).weight)


def test_wider_barriers_are_touched_later() -> None:
    panel = market(7, 300, 0.05)
    spans = []
    for multiple in (0.25, 0.5, 1.0, 2.0, 4.0):
        config = LabelConfig(
            kind="triple_barrier",
            horizon_bars=12,
            volatility_bars=20,
            barrier_multiple=multiple,
        )
        spans.append(compute_labels(panel, config).ts_decided)
    for narrow, wide in pairwise(spans):
        assert narrow is not None
        assert wide is not None
        assert np.all(narrow <= wide)
        assert np.any(narrow < wide)


@pytest.mark.parametrize(("hole", "is_new"), [(MAX_CARRIED - 1, False), (MAX_CARRIED, True)])
def test_a_hole_begins_the_volatility_anew(hole: int, is_new: bool) -> None:
    bars = market(8, 300, 0.0).bars[0]
    kept = np.ones(300, dtype=np.bool_)
    kept[100 : 100 + hole] = False
    panel = Panel(INTERVAL, (take(bars, kept),), {}, "hash", False)
    config = LabelConfig(kind="triple_barrier", horizon_bars=1, volatility_bars=80)
    labels = compute_labels(panel, config)
    known = np.isfinite(labels.value)
    assert not known[:80].any()
    assert known[80:98].any()
    # In a new run 80 bars are unknown; in the old one, the last 80 slots hold 17 that moved.
    assert known[100:180].any() != is_new
    assert known[180:].any()


# ---------------------------------------------------------------------------------------------
# Settings and sides.


def test_settings_that_a_kind_does_not_use_are_refused_and_in_no_hash() -> None:
    with pytest.raises(
        ValueError, match=r"dead_zone must be left at 0.25 for the label forward_si"
    ):
        LabelConfig(horizon_bars=4, dead_zone=0.5)
    with pytest.raises(ValueError, match=r"was 2.0; it is for triple_barrier, meta"):
        LabelConfig(kind="volatility_scaled", horizon_bars=4, barrier_multiple=2.0)
    assert LabelConfig(horizon_bars=4).model_dump() == {"kind": "forward_sign", "horizon_bars": 4}
    one = LabelConfig(kind="triple_barrier", horizon_bars=4)
    other = LabelConfig(kind="triple_barrier", horizon_bars=4, barrier_multiple=2.0)
    assert one.content_hash() != other.content_hash()
    for config in (one, other, LabelConfig(kind="meta", horizon_bars=2, at_timeout="unknown")):
        assert LabelConfig.model_validate_json(config.model_dump_json()) == config


def test_a_side_is_for_meta_labels_and_fits_the_rows() -> None:
    panel = market(9, 60, 0.0)
    meta = LabelConfig(kind="meta", horizon_bars=4)
    with pytest.raises(ConfigError, match="label meta must be given the side of a primary model"):
        compute_labels(panel, meta)
    with pytest.raises(DataError, match="side must be given for the label meta only, was for forw"):
        compute_labels(panel, LabelConfig(horizon_bars=4), side=np.zeros(180))
    with pytest.raises(DataError, match=r"shape \(180,\) of the rows, was \(3,\)"):
        compute_labels(panel, meta, side=np.zeros(3))
    with pytest.raises(DataError, match=r"side must be -1, 0 or 1, was 0.5 in row 7 and 1 more"):
        compute_labels(panel, meta, side=np.where(np.isin(np.arange(180), (7, 9)), 0.5, 1.0))
    with pytest.raises(DataError, match="side must be -1, 0 or 1, was nan in row 0"):
        compute_labels(panel, meta, side=np.full(180, NAN))
