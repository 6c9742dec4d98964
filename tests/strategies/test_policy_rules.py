"""The rules of the policy that depend on market, uncertainty, ages, costs and the past."""

import json
import math
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from catalog.errors import ConfigError
from strategies.intent import MarketView, TradeCosts
from strategies.policy import (
    NEVER,
    REASONS,
    DecidedBars,
    FusionPolicy,
    Held,
    Thresholds,
    decide,
    entry_side,
    expected_edge,
    thresholds,
)

NAN = math.nan
MARKET = MarketView(
    price=100.0, volatility=0.004, volume=10.0, funding_rate=0.0, next_funding_bars=8.0
)
COSTS = TradeCosts(round_trip_frac=0.0012, funding_interval_bars=32.0)
FLAT, LONG, SHORT = Held(0, 0), Held(1, 10), Held(-1, 10)
REGIMES = ("trend", "neutral", "mean_reverting", "")


class Signal(NamedTuple):
    prob_up: float
    side: int
    horizon_bars: int = 4
    degraded: bool = False
    sigma: float = NAN
    epistemic: float = NAN
    regime: str = ""
    entry_threshold: float = NAN
    input_ages: str | tuple[tuple[str, float], ...] = ()


def signal(prob, **changes):
    return Signal(prob, (prob > 0.5) - (prob < 0.5), **changes)


def make(**changes):
    return FusionPolicy(
        **{"entry_threshold": 0.55, "exit_threshold": 0.5, "position_frac": 0.5, **changes}
    )


def reason(policy, said, held=FLAT, market=MARKET, costs=COSTS):
    return decide(policy, said, held, market, costs).reason


def test_codes_of_stored_reasons_stand():
    assert REASONS[:15] == (
        *("enter_long", "enter_short", "reverse_to_long", "reverse_to_short", "exit_threshold"),
        *("exit_opposite", "exit_horizon", "hold", "hold_minimum", "no_signal"),
        *("short_not_allowed", "degraded", "predictor_flat", "below_minimum", "order_pending"),
    )
    assert len(set(REASONS)) == len(REASONS) < 128


# Thresholds


@pytest.mark.parametrize(
    ("regime", "least"), [("trend", 0.53), ("neutral", 0.55), ("", 0.55), ("mean_reverting", 0.57)]
)
def test_the_regime_moves_the_entry_by_exactly_its_shift(regime, least):
    policy = make(regime_shift=0.02)
    assert reason(policy, signal(least, regime=regime)) == "enter_long"
    assert reason(policy, signal(round(1.0 - least, 2), regime=regime)) == "enter_short"
    assert reason(policy, signal(least - 1e-9, regime=regime)) == "no_signal"


def test_the_regime_moves_the_exit_along():
    policy = make(regime_shift=0.02)
    assert reason(policy, signal(0.485, regime="trend"), LONG) == "hold"
    assert reason(policy, signal(0.485, regime="neutral"), LONG) == "exit_threshold"
    assert reason(policy, signal(0.51, regime="mean_reverting"), LONG) == "exit_threshold"


def test_a_trend_takes_at_most_half_of_the_distance():
    found = thresholds(make(entry_threshold=0.51, regime_shift=0.02), signal(0.5, regime="trend"))
    assert found == pytest.approx(Thresholds(0.505, 0.495))


def test_calm_markets_ask_for_more_where_the_expected_return_is_to_stay_the_same():
    policy = make(volatility_exponent=-1.0, base_volatility=0.004)
    found = {
        volatility: thresholds(policy, signal(0.5), MARKET._replace(volatility=volatility)).entry
        for volatility in (0.0001, 0.002, 0.004, 0.008, 1.0)
    }
    wanted = {0.0001: 0.6, 0.002: 0.6, 0.004: 0.55, 0.008: 0.525, 1.0: 0.525}
    assert found == pytest.approx(wanted)
    products = [(found[v] - 0.5) * v for v in (0.002, 0.004, 0.008)]
    assert products == pytest.approx([products[0]] * 3)


@pytest.mark.parametrize("extreme", [5e-324, 1e308])
@pytest.mark.parametrize("exponent", [-2.0, 2.0])
def test_the_scale_stays_in_its_bounds_whatever_the_volatility(extreme, exponent):
    policy = make(volatility_exponent=exponent, base_volatility=0.004)
    entry = thresholds(policy, signal(0.5), MARKET._replace(volatility=extreme)).entry
    assert entry == pytest.approx(0.525) or entry == pytest.approx(0.6)


@pytest.mark.parametrize("unknown", [NAN, 0.0, math.inf, -1.0])
def test_without_a_volatility_nothing_is_opened_and_the_exit_is_that_of_the_base(unknown):
    policy = make(exit_threshold=0.52, volatility_exponent=1.0, base_volatility=0.004)
    market = MARKET._replace(volatility=unknown)
    assert reason(policy, signal(0.99), market=market) == "no_volatility"
    assert reason(policy, signal(0.53), LONG, market) == "hold"
    assert reason(policy, signal(0.51), LONG, market) == "exit_threshold"


def test_a_swept_threshold_is_the_predictions_own():
    policy = make(entry_threshold="swept")
    assert reason(policy, signal(0.6, entry_threshold=0.6)) == "enter_long"
    assert reason(policy, signal(0.6, entry_threshold=0.61)) == "no_signal"


@pytest.mark.parametrize("none", [NAN, 0.5, 0.3, 1.0, math.inf])
def test_without_a_swept_threshold_nothing_is_opened_but_positions_are_left(none):
    policy = make(entry_threshold="swept")
    assert reason(policy, signal(0.99, entry_threshold=none)) == "no_threshold"
    assert reason(policy, signal(0.49, entry_threshold=none), LONG) == "exit_threshold"
    assert reason(policy, signal(0.01, entry_threshold=none), LONG) == "exit_threshold"


def test_a_low_swept_threshold_lowers_the_exit_to_keep_the_gap():
    policy = make(entry_threshold="swept", exit_threshold=0.54, hysteresis=0.02)
    assert thresholds(policy, signal(0.5, entry_threshold=0.53)) == pytest.approx((0.53, 0.51))
    assert thresholds(policy, signal(0.5, entry_threshold=0.7)) == pytest.approx((0.7, 0.54))


def test_the_gap_between_the_thresholds_is_demanded():
    with pytest.raises(ValidationError, match=r"at most entry_threshold \(0.55\) less hysteresis"):
        make(exit_threshold=0.54, hysteresis=0.02)


def test_a_scale_without_a_base_is_refused():
    with pytest.raises(ValidationError, match="base_volatility must be stated"):
        make(volatility_exponent=1.0)


def test_a_rule_is_never_left_out_for_want_of_its_inputs():
    scaled = make(volatility_exponent=1.0, base_volatility=0.004)
    with pytest.raises(ConfigError, match="market must be given to a policy with volatility_expo"):
        decide(scaled, signal(0.9), FLAT)
    paying = make(edge_margin_bps=1.0)
    with pytest.raises(ConfigError, match="market must be given to a policy with edge_margin_bps"):
        decide(paying, signal(0.9), FLAT)
    with pytest.raises(ConfigError, match="costs must be given to a policy with edge_margin_bps"):
        decide(paying, signal(0.9), FLAT, MARKET)


# What speaks against an entry


def test_after_a_stop_nothing_is_opened_for_a_while():
    policy = make(cooldown_bars=2)
    found = [reason(policy, signal(0.9), Held(0, 0, bars)) for bars in (0, 1, 2, NEVER)]
    assert found == ["cooldown", "cooldown", "enter_long", "enter_long"]
    assert reason(policy, signal(0.52), Held(0, 0, 0)) == "no_signal"
    assert reason(policy, signal(0.1), Held(1, 10, 0)) == "reverse_to_short"


@pytest.mark.parametrize(
    ("epistemic", "expected"), [(0.05, "enter_long"), (0.0501, "uncertain"), (NAN, "uncertain")]
)
def test_uncertain_predictions_open_nothing(epistemic, expected):
    assert reason(make(max_epistemic=0.05), signal(0.9, epistemic=epistemic)) == expected


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ((("flows", 98.0), ("news", 900.0)), "enter_long"),
        ((("flows", 98.5),), "stale_input"),
        ((("flows", NAN),), "stale_input"),
        ((("news", 1.0),), "stale_input"),
        ((), "stale_input"),
    ],
)
def test_inputs_overdue_by_more_than_two_bars_open_nothing(ages, expected):
    policy = make(input_period_bars={"flows": 96.0})
    text = json.dumps({name: age if math.isfinite(age) else None for name, age in ages})
    assert reason(policy, signal(0.9, input_ages=ages)) == expected
    assert reason(policy, signal(0.9, input_ages=text if ages else "")) == expected


def test_a_trade_must_pay_for_itself():
    # 0.6: a fifth of the mean absolute move of 0.8 x 0.4 % x 2 bars^0.5 = 0.64 %, 12.8 bp.
    said = signal(0.6)
    edge = 0.2 * math.sqrt(2.0 / math.pi) * 0.004 * 2.0 - 0.0012
    assert expected_edge(said, 1, MARKET, COSTS) == pytest.approx(edge)
    assert reason(make(edge_margin_bps=edge * 1e4 - 0.01), said) == "enter_long"
    assert reason(make(edge_margin_bps=edge * 1e4 + 0.01), said) == "edge_too_small"


def test_funding_until_the_horizon_is_a_cost():
    policy = make(edge_margin_bps=0.0)
    dear = MARKET._replace(funding_rate=0.0005, next_funding_bars=2.0)
    assert reason(policy, signal(0.6), market=dear) == "edge_too_small"
    assert reason(policy, signal(0.4), market=dear) == "enter_short"
    assert reason(policy, signal(0.6), market=dear._replace(next_funding_bars=5.0)) == "enter_long"


def test_without_any_volatility_no_edge_is_expected():
    policy = make(edge_margin_bps=0.0)
    unknown = MARKET._replace(volatility=NAN)
    assert reason(policy, signal(0.99), market=unknown) == "edge_too_small"
    assert reason(policy, signal(0.99, sigma=0.01), market=unknown) == "enter_long"


def test_holding_on_needs_no_second_round_trip():
    policy = make(edge_margin_bps=0.0, exit_after_horizon=True)
    dear = COSTS._replace(round_trip_frac=0.1)
    assert reason(policy, signal(0.6), costs=dear) == "edge_too_small"
    assert decide(policy, signal(0.6), LONG, MARKET, dear).renew
    taxed = MARKET._replace(funding_rate=0.01, next_funding_bars=2.0)
    assert reason(policy, signal(0.6), LONG, taxed) == "exit_horizon"


REFUSING = {
    "degraded": (make(), {"degraded": True}),
    "uncertain": (make(max_epistemic=0.01), {"epistemic": 0.02}),
    "stale_input": (make(input_period_bars={"flows": 1.0}), {}),
    "edge_too_small": (make(edge_margin_bps=900.0), {}),
}


@pytest.mark.parametrize("why", REFUSING)
def test_a_refused_signal_only_reduces(why):
    policy, changes = REFUSING[why]
    assert reason(policy, signal(0.9, **changes)) == why
    assert reason(policy, signal(0.1, **changes), LONG) == "exit_opposite"
    assert reason(policy, signal(0.9, **changes), LONG) == "hold"
    renewing = policy.model_copy(update={"exit_after_horizon": True})
    assert reason(renewing, signal(0.9, **changes), LONG) == "exit_horizon"


def test_too_many_degraded_predictions_in_a_row_end_a_position():
    policy = make(max_degraded_bars=2)
    said = signal(0.9, degraded=True)
    found = [reason(policy, said, Held(1, 1, NEVER, bars)) for bars in (2, 3)]
    assert found == ["hold_minimum", "exit_degraded"]
    assert reason(make(), said, Held(1, 1, NEVER, 99)) == "hold_minimum"


def test_a_probability_that_is_no_number_opens_nothing_and_ends_what_may_end():
    policy = make(regime_shift=0.02)
    said = Signal(NAN, 0)
    assert reason(policy, said) == "no_prediction"
    assert reason(policy, said, Held(1, 1)) == "hold_minimum"
    assert reason(policy, said, LONG) == reason(policy, said, SHORT) == "exit_threshold"


# One decision per bar


def test_a_second_prediction_of_the_same_bar_is_not_decided_on():
    bars = DecidedBars(interval_ns=10)
    calls = [("a", 100), ("a", 100), ("a", 109), ("b", 100), ("a", 110), ("a", 100), ("a", 0)]
    assert [bars.first(*call) for call in calls] == [True, False, False, True, True, False, False]


# Properties

probabilities = st.floats(0.0, 1.0)
signals = st.builds(
    Signal,
    probabilities | st.just(NAN),
    st.sampled_from([-1, 0, 1]),
    horizon_bars=st.integers(1, 32),
    degraded=st.booleans(),
    sigma=st.floats(0.0, 0.2) | st.just(NAN),
    epistemic=st.floats(0.0, 0.5) | st.just(NAN),
    regime=st.sampled_from(REGIMES),
    entry_threshold=st.floats(0.4, 1.1) | st.just(NAN),
    input_ages=st.just(()) | st.tuples(st.tuples(st.just("flows"), st.floats(0.0, 200.0))),
)
policies = st.builds(
    make,
    entry_threshold=st.floats(0.52, 0.9) | st.just("swept"),
    hysteresis=st.floats(0.0, 0.02),
    allow_short=st.booleans(),
    min_holding_bars=st.none() | st.integers(0, 20),
    exit_after_horizon=st.booleans(),
    regime_shift=st.sampled_from([0.0, 0.02]),
    volatility_exponent=st.sampled_from([-1.0, 0.0, 0.5]),
    base_volatility=st.just(0.004),
    cooldown_bars=st.integers(0, 5),
    max_degraded_bars=st.none() | st.integers(0, 3),
    max_epistemic=st.none() | st.floats(0.01, 0.5),
    input_period_bars=st.just({}) | st.just({"flows": 96.0}),
    edge_margin_bps=st.none() | st.floats(0.0, 50.0),
)
markets = st.builds(
    MarketView,
    st.just(100.0),
    st.floats(0.0, 0.1) | st.just(NAN),
    st.just(1.0),
    st.floats(-0.0075, 0.0075),
    st.floats(0.0, 32.0) | st.just(NAN),
)
helds = st.builds(
    Held, st.sampled_from([-1, 0, 1]), st.integers(0, 50), st.integers(0, 9), st.integers(0, 5)
)


@given(policies, signals, helds, markets)
def test_no_rule_is_broken_by_an_entry(policy, said, held, market):
    found = decide(policy, said, held, market, COSTS)
    assert found.reason in REASONS
    if found.side in (0, held.side) and not found.renew:
        return
    assert not said.degraded
    assert said.side == found.side
    assert policy.allow_short or found.side > 0
    assert policy.max_epistemic is None or said.epistemic <= policy.max_epistemic
    if policy.input_period_bars:
        assert dict(said.input_ages)["flows"] <= 98.0
    if policy.edge_margin_bps is not None and found.reason != "hold":
        assert expected_edge(said, found.side, market, COSTS) > policy.edge_margin_bps / 1e4 - 1e-12
    if held.side == 0:
        assert held.bars_since_stop >= policy.cooldown_bars
    limits = thresholds(policy, said, market)
    assert entry_side(limits.entry - 1e-9, said.prob_up) == found.side


@given(policies, signals, helds, markets)
def test_long_and_short_mirror_each_other(policy, said, held, market):
    assume(policy.allow_short)
    said = said._replace(
        prob_up=round(said.prob_up * 64) / 64 if said.prob_up == said.prob_up else NAN
    )
    mirrored = said._replace(prob_up=1.0 - said.prob_up, side=-said.side)
    found = decide(policy, said, held, market, COSTS)
    other = decide(
        policy,
        mirrored,
        held._replace(side=-held.side),
        market._replace(funding_rate=-market.funding_rate),
        COSTS,
    )
    assert (other.side, other.renew) == (-found.side, found.renew)


@given(policies, signals, markets)
def test_the_exit_stays_below_the_entry_by_the_hysteresis(policy, said, market):
    found = thresholds(policy, said, market)
    if not math.isnan(found.entry):
        assert found.entry > 0.5
        assert found.exit <= found.entry - policy.hysteresis + 1e-12


@given(policies, signals, markets)
def test_a_position_just_entered_is_not_left_by_the_same_prediction(policy, said, market):
    side = decide(policy, said, Held(0, 0), market, COSTS).side
    if side:
        assert decide(policy, said, Held(side, 0), market, COSTS).side == side


@given(signals, helds, markets)
def test_options_that_are_off_change_nothing(said, held, market):
    plain, market_blind = make(), decide(make(), said, Held(held.side, held.bars))
    assert decide(plain, said, held, market, COSTS) == market_blind


@given(policies, signals, markets)
def test_easier_in_a_trend_than_in_mean_reversion(policy, said, market):
    entries = [
        thresholds(policy, said._replace(regime=regime), market).entry
        for regime in ("trend", "neutral", "mean_reverting")
    ]
    assert math.isnan(entries[0]) or entries == sorted(entries)


@given(policies, probabilities, st.integers(1, 40), markets)
def test_more_cost_never_opens_what_less_would_not(policy, prob, cost_bps, market):
    said = signal(prob)
    cheap = decide(policy, said, FLAT, market, COSTS).side
    dear = decide(
        policy, said, FLAT, market, COSTS._replace(round_trip_frac=0.0012 + cost_bps / 1e4)
    )
    assert dear.side in (0, cheap)
