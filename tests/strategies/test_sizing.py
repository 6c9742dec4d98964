import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from strategies.edge import expected_move
from strategies.execution import InstrumentTerms, exact_decimal
from strategies.intent import AccountView, MarketView, TradeCosts
from strategies.kelly import WeightCaps, kelly_weights
from strategies.sizing import BOUND_BY, SizingConfig, shrunk_edge, size

METHODS = ("fixed", "fixed_fractional", "volatility_target", "kelly", "kelly_continuous")
NO_CAPS = {
    "risk_per_trade": 1.0,
    "max_position": 10.0,
    "max_gross": 125.0,
    "max_net": 125.0,
}
FREE = TradeCosts(0.0, math.nan)
COSTS = TradeCosts(0.0012, 32.0)
# A step so fine that rounding hides nothing; no minima.
FINE = InstrumentTerms("X", Decimal("0.01"), Decimal("1e-12"), Decimal(0), Decimal(0))
BTC = InstrumentTerms("BTC", Decimal("0.1"), Decimal("0.001"), Decimal("0.001"), Decimal(50))
ACCOUNT = AccountView(100_000.0, 0.0, 0.0)


class Signal(NamedTuple):
    prob_up: float
    horizon_bars: int = 16
    mu: float = math.nan
    sigma: float = math.nan
    epistemic: float = math.nan
    prob_low: float = math.nan
    prob_high: float = math.nan


def view(price=100.0, volatility=0.0025, rate=0.0, following=math.nan):
    return MarketView(price, volatility, 1_000.0, rate, following)


MARKET = view()


def configure(method, **changes):
    return SizingConfig(**{"method": method, "bars_per_day": 96, **changes})


def sized(config, signal, side=1, **changes):
    inputs = {
        "market": MARKET,
        "account": ACCOUNT,
        "terms": FINE,
        "stop_frac": 0.02,
        "costs": FREE,
        **changes,
    }
    return size(config, signal, side, **inputs)


def wanted(method, prob, side=1, **changes):
    """The fraction that a method alone wants, as good as unrounded."""
    settings_ = {key: changes.pop(key) for key in list(changes) if key in SizingConfig.model_fields}
    signal = changes.pop("signal", Signal(prob))
    return sized(configure(method, **{**NO_CAPS, **settings_}), signal, side, **changes).fraction


# What each method wants, worked out by hand


def test_fixed_is_its_fraction():
    assert wanted("fixed", 0.6, fixed_frac=0.3) == pytest.approx(0.3)


def test_fixed_fractional_loses_its_risk_at_the_stop():
    assert wanted("fixed_fractional", 0.6, risk_frac=0.01, stop_frac=0.04) == pytest.approx(0.25)


def test_the_volatility_target_counts_365_days():
    annual = 0.0025 * math.sqrt(365 * 96)
    found = wanted("volatility_target", 0.6, annual_volatility=0.2)
    assert found == pytest.approx(0.2 / annual)


def test_kelly_is_half_the_published_formula():
    move = expected_move(0.0025 * 4.0)
    assert wanted("kelly", 0.51) == pytest.approx(0.5 * 0.02 / move)
    cost = 0.0012
    gain, loss = move - cost, move + cost
    expected = 0.5 * (0.6 / loss - 0.4 / gain)
    assert wanted("kelly", 0.6, costs=COSTS) == pytest.approx(expected)


def test_kelly_with_a_payoff_ratio_at_the_stop():
    found = wanted("kelly", 0.4, payoff_ratio=2.0, loss_at="stop", stop_frac=0.1)
    assert found == pytest.approx(0.5 * (0.4 / 0.1 - 0.6 / 0.2))


def test_kelly_continuous_takes_the_models_expectation_before_its_probabilitys():
    found = wanted("kelly_continuous", 0.0, signal=Signal(0.6, mu=0.0001, sigma=0.01))
    assert found == pytest.approx(0.5 * 0.0001 / 0.01**2)
    found = wanted("kelly_continuous", 0.0, signal=Signal(0.51, sigma=0.01))
    assert found == pytest.approx(0.5 * 0.02 * expected_move(0.01) / 0.01**2)


def test_two_points_size_up_to_half_pi_as_much_as_a_continuous_return():
    binary, continuous = wanted("kelly", 0.501), wanted("kelly_continuous", 0.501)
    assert binary / continuous == pytest.approx(math.pi / 2.0, rel=1e-6)


def test_kelly_multi_takes_the_weight_and_never_the_other_side():
    config = configure("kelly_multi", **NO_CAPS)
    assert sized(config, Signal(0.6), 1, weight=0.3).fraction == pytest.approx(0.3)
    assert sized(config, Signal(0.4), -1, weight=-0.3).fraction == pytest.approx(0.3)
    assert sized(config, Signal(0.6), 1, weight=-0.3)[0::3] == (0.0, "no_edge")
    assert sized(config, Signal(0.6), 1)[0::3] == (0.0, "weight_unknown")


def test_kelly_multi_of_one_instrument_is_kelly_continuous():
    signal = Signal(0.52, sigma=0.01, epistemic=0.01, prob_low=0.515, prob_high=0.6)
    config = configure("kelly_multi", **NO_CAPS)
    mu = shrunk_edge(config, signal, 1, MARKET, TradeCosts(0.0001, 32.0))
    weights = kelly_weights(
        np.array([mu]), np.array([[0.01**2]]), config.fraction, WeightCaps(10, 125, 125)
    )
    found = sized(config, signal, weight=float(weights[0])).fraction
    alone = wanted("kelly_continuous", 0.0, signal=signal, costs=TradeCosts(0.0001, 32.0))
    assert found == pytest.approx(alone)
    assert found > 0.0


def test_the_edge_for_weights_is_zero_where_something_is_unknown():
    config = configure("kelly_multi")
    assert shrunk_edge(config, Signal(0.6), -1, MARKET, FREE) == 0.0
    assert shrunk_edge(config, Signal(math.nan), 1, MARKET, FREE) == 0.0
    assert shrunk_edge(config, Signal(0.6), 1, view(volatility=math.nan), FREE) == 0.0
    assert shrunk_edge(config, Signal(0.6), 1, MARKET, TradeCosts(math.nan, 32.0)) == 0.0
    assert shrunk_edge(config, Signal(0.4), -1, MARKET, FREE) < 0.0


# Shrinkage


@pytest.mark.parametrize("method", ["kelly", "kelly_continuous"])
def test_a_probability_with_an_error_is_worth_less(method):
    certain = wanted(method, 0.55)
    found = [wanted(method, 0.0, signal=Signal(0.55, epistemic=s)) for s in (0.0, 0.02, 0.05, 0.2)]
    assert found[0] == certain
    assert found[1] == pytest.approx(certain * 0.1**2 / (0.1**2 + 0.04**2))
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0.0
    kept = wanted(method, 0.0, signal=Signal(0.55, epistemic=0.2), shrink_by_epistemic=False)
    assert kept == certain


@pytest.mark.parametrize("method", ["kelly", "kelly_continuous"])
@pytest.mark.parametrize(
    ("side", "prob", "low", "high"), [(1, 0.6, 0.55, 0.9), (-1, 0.4, 0.1, 0.45)]
)
def test_the_end_of_the_interval_nearest_to_one_half_counts(method, side, prob, low, high):
    near = low if side > 0 else high
    signal = Signal(prob, prob_low=low, prob_high=high)
    assert wanted(method, 0.0, side, signal=signal) == pytest.approx(wanted(method, near, side))
    full = wanted(method, prob, side)
    assert wanted(method, 0.0, side, signal=signal, shrink_by_interval=False) == full
    astride = Signal(prob, prob_low=0.3, prob_high=0.7)
    assert wanted(method, 0.0, side, signal=astride) == 0.0


# Properties of every method

methods = st.sampled_from(METHODS)
sides = st.sampled_from((-1, 1))
# Multiples of 2^-20, so that 1 - p is exact and the two sides can be compared bit for bit.
probabilities = st.integers(1, 2**20 - 1).map(lambda count: count / 2**20)
errors = st.one_of(st.just(math.nan), st.floats(0.0, 0.2))
volatilities = st.floats(2e-4, 0.05)
stops = st.floats(0.001, 0.5)
equities = st.floats(10.0, 1e8)
costs_ = st.builds(TradeCosts, st.floats(0.0, 0.01), st.just(32.0))


@given(methods, sides, volatilities, stops, costs_, errors)
def test_no_edge_is_no_position(method, side, volatility, stop, costs, error):
    found = sized(
        configure(method),
        Signal(0.5, epistemic=error),
        side,
        market=view(volatility=volatility),
        stop_frac=stop,
        costs=costs,
    )
    assert found == (0.0, 0.0, method, "no_edge")


@given(methods, sides, probabilities, probabilities, volatilities, costs_, errors, st.booleans())
def test_a_larger_edge_is_never_a_smaller_position(
    method, side, one, two, volatility, costs, error, capped
):
    low, high = sorted((one, two))
    config = configure(method, **({} if capped else NO_CAPS))
    shared = {"market": view(volatility=volatility), "costs": costs}
    less, more = (
        sized(config, Signal(p if side > 0 else 1.0 - p, epistemic=error), side, **shared)
        for p in (low, high)
    )
    assert less.quantity <= more.quantity * (1.0 + 1e-9) + 1e-12


@given(methods, probabilities, volatilities, costs_, errors)
def test_long_and_short_mirror_each_other(method, prob, volatility, costs, error):
    shared = {"market": view(volatility=volatility), "costs": costs}
    config = configure(method)
    spread = 2.0**-6
    signal = Signal(prob, 16, 0.001, math.nan, error, prob - spread, prob + spread)
    mirrored = Signal(
        1.0 - prob, 16, -0.001, math.nan, error, 1.0 - prob - spread, 1.0 - prob + spread
    )
    account = AccountView(1e5, 3e4, 2e4)
    long = sized(config, signal, 1, account=account, **shared)
    short = sized(config, mirrored, -1, account=account._replace(net=-2e4), **shared)
    assert long == short


@given(methods, sides, probabilities, volatilities, st.integers(1, 10))
def test_size_follows_equity_up_to_a_step(method, side, prob, volatility, doublings):
    scale = 2.0**doublings
    config = configure(method)
    shared = {"market": view(volatility=volatility)}
    account = AccountView(1e4, 5e3, 1e3)
    scaled = AccountView(*(number * scale for number in account))
    small = sized(config, Signal(prob), side, account=account, **shared)
    large = sized(config, Signal(prob), side, account=scaled, **shared)
    assert abs(large.quantity - scale * small.quantity) <= 1.01e-12 * scale + 1e-9 * large.quantity
    assert large.bound_by == small.bound_by


def largest_jump(function, low, high):
    """Follow the largest change between neighbours until they are all but equal."""
    for _ in range(60):
        points = np.linspace(low, high, 9)
        changes = np.abs(np.diff([function(point) for point in points]))
        worst = int(changes.argmax())
        low, high = float(points[worst]), float(points[worst + 1])
        if high - low < 1e-11 * max(abs(low), abs(high), 1e-3):
            break
    return float(changes.max())


RANGES = {
    "prob": (0.35, 0.95),
    "error": (0.0, 0.1),
    "volatility": (5e-4, 0.05),
    "stop": (0.002, 0.4),
    "cost": (0.0, 0.01),
}


@settings(max_examples=25)
@given(st.floats(0.5, 0.8), st.floats(0.001, 0.05), st.floats(0.01, 0.1), st.floats(0.0, 0.003))
@pytest.mark.parametrize("name", sorted(RANGES))
@pytest.mark.parametrize("method", METHODS)
def test_size_is_continuous_in_everything_it_depends_on(method, name, prob, volatility, stop, cost):
    config = configure(method)
    base = {"prob": prob, "error": 0.02, "volatility": volatility, "stop": stop, "cost": cost}

    def fraction(value):
        inputs = {**base, name: value}
        return sized(
            config,
            Signal(inputs["prob"], epistemic=inputs["error"]),
            market=view(volatility=inputs["volatility"]),
            stop_frac=inputs["stop"],
            costs=TradeCosts(inputs["cost"], 32.0),
        ).fraction

    assert largest_jump(fraction, *RANGES[name]) < 1e-6


# Caps


@settings(max_examples=400)
@given(
    method=methods,
    side=sides,
    prob=st.floats(0.0, 1.0),
    volatility=volatilities,
    stop=stops,
    price=st.floats(1e-4, 1e6),
    equity=equities,
    gross=st.floats(0.0, 3.0),
    tilt=st.floats(-1.0, 1.0),
    caps=st.tuples(
        st.floats(0.001, 0.1), st.floats(0.01, 2.0), st.floats(0.5, 3.0), st.floats(0.1, 0.5)
    ),
    largest=st.one_of(st.none(), st.floats(100.0, 1e6)),
    step=st.sampled_from(("0.001", "1", "0.00001", "0.5")),
)
def test_nothing_goes_beyond_a_cap(
    method, side, prob, volatility, stop, price, equity, gross, tilt, caps, largest, step
):
    risk, position, max_gross, max_net = caps
    config = configure(
        method,
        risk_per_trade=risk,
        max_position=position,
        max_gross=max_gross,
        max_net=max_net,
        max_notional=largest,
    )
    account = AccountView(equity, gross * equity, gross * tilt * equity)
    terms = InstrumentTerms("X", Decimal("0.01"), Decimal(step), Decimal(step), Decimal(5))
    found = sized(
        config,
        Signal(prob),
        side,
        market=view(price, volatility),
        account=account,
        terms=terms,
        stop_frac=stop,
    )
    assert found.bound_by in BOUND_BY
    assert found.method == method
    if found.quantity == 0.0:
        assert found.fraction == 0.0
        return
    quantity, exact_price, exact_equity = map(exact_decimal, (found.quantity, price, equity))
    worth = quantity * exact_price
    slack = 1 + Decimal("1e-20")
    assert quantity % terms.step == 0
    assert worth >= terms.min_notional
    assert worth * exact_decimal(stop) <= exact_decimal(risk) * exact_equity * slack
    assert worth <= exact_decimal(position) * exact_equity * slack
    assert worth + exact_decimal(account.gross) <= exact_decimal(max_gross) * exact_equity * slack
    net = exact_decimal(account.net) * side
    assert net + worth <= exact_decimal(max_net) * exact_equity * slack
    if largest is not None:
        assert worth <= exact_decimal(largest)


@pytest.mark.parametrize(
    ("settings_", "changes", "fraction", "bound"),
    [
        ({}, {"stop_frac": 0.2}, 0.1, "risk_per_trade"),
        ({}, {"stop_frac": math.nan}, 0.2, "max_position"),
        ({}, {"account": AccountView(1e5, 1.9e5, 0.0)}, 0.1, "max_gross"),
        ({}, {"account": AccountView(1e5, 2.5e5, 0.0)}, 0.0, "max_gross"),
        ({}, {"account": AccountView(1e5, 9.5e4, 9.5e4)}, 0.05, "max_net"),
        ({}, {"account": AccountView(1e5, 9.5e4, -9.5e4)}, 0.2, "max_position"),
        ({"max_notional": 3_000.0}, {}, 0.03, "max_notional"),
        ({"min_notional": 30_000.0}, {}, 0.0, "min_notional"),
        ({}, {"terms": BTC, "account": AccountView(249.0, 0.0, 0.0)}, 0.0, "below_minimum"),
        ({"method": "fixed"}, {}, 0.1, "fixed"),
        ({}, {"costs": TradeCosts(0.05, 32.0)}, 0.0, "no_edge"),
        ({"method": "fixed"}, {"costs": TradeCosts(0.05, 32.0)}, 0.0, "no_edge"),
        (
            {"method": "fixed", "edge_after_costs": False},
            {"costs": TradeCosts(1.0, 8.0)},
            0.1,
            "fixed",
        ),
    ],
)
def test_the_rule_that_decided_is_named(settings_, changes, fraction, bound):
    config = configure(**{"method": "kelly", **settings_})
    found = sized(config, Signal(0.7), **changes)
    assert found.bound_by == bound
    assert found.fraction == pytest.approx(fraction)


def test_the_exchanges_largest_order_binds_and_is_itself_a_multiple_of_the_step():
    class Terms(NamedTuple):
        instrument_id: str
        tick: Decimal
        step: Decimal
        min_quantity: Decimal
        min_notional: Decimal
        max_quantity: Decimal

    terms = Terms("X", Decimal("0.1"), Decimal(3), Decimal(0), Decimal(0), Decimal(100))
    found = sized(configure("kelly"), Signal(0.7), terms=terms)
    assert found.quantity == 99.0
    assert found.bound_by == "max_quantity"


def test_funding_until_the_horizon_takes_from_the_size_of_who_pays_it():
    paid = view(rate=0.0075, following=4.0)
    shared = {"costs": COSTS, **NO_CAPS}
    assert wanted("kelly", 0.7, 1, market=paid, **shared) == 0.0
    received = wanted("kelly", 0.3, -1, market=paid, **shared)
    assert received == pytest.approx(wanted("kelly", 0.3, -1, **NO_CAPS))


# What is unknown or impossible


@pytest.mark.parametrize(
    ("method", "prob", "changes", "reason"),
    [
        ("kelly", math.nan, {}, "probability_unknown"),
        ("fixed", 1.5, {}, "probability_unknown"),
        ("fixed", 0.6, {"market": view(price=0.0)}, "price_invalid"),
        ("fixed", 0.6, {"market": view(price=-5.0)}, "price_invalid"),
        ("fixed", 0.6, {"market": view(price=math.nan)}, "price_invalid"),
        ("fixed", 0.6, {"account": AccountView(0.0, 0.0, 0.0)}, "equity_invalid"),
        ("fixed", 0.6, {"account": AccountView(-1.0, 0.0, 0.0)}, "equity_invalid"),
        ("fixed", 0.6, {"account": AccountView(math.nan, 0.0, 0.0)}, "equity_invalid"),
        ("fixed", 0.6, {"account": AccountView(1e5, math.nan, 0.0)}, "account_invalid"),
        ("fixed", 0.6, {"account": AccountView(1e5, 0.0, math.nan)}, "account_invalid"),
        ("fixed", 0.6, {"stop_frac": 0.0}, "stop_unknown"),
        ("fixed_fractional", 0.6, {"stop_frac": math.nan}, "stop_unknown"),
        ("volatility_target", 0.6, {"market": view(volatility=math.nan)}, "volatility_unknown"),
        ("kelly", 0.6, {"market": view(volatility=0.0)}, "volatility_unknown"),
        ("kelly_continuous", 0.6, {"market": view(volatility=math.nan)}, "volatility_unknown"),
        ("fixed", 0.6, {"costs": TradeCosts(math.nan, 32.0)}, "costs_unknown"),
        (
            "fixed",
            0.6,
            {"market": view(rate=math.nan, following=4.0), "costs": COSTS},
            "costs_unknown",
        ),
    ],
)
def test_what_is_unknown_gives_no_position_and_says_so(method, prob, changes, reason):
    assert sized(configure(method), Signal(prob), **changes) == (0.0, 0.0, method, reason)


numbers = st.one_of(st.floats(0.0, 1.0), st.floats(), st.sampled_from((math.nan, 0.0, -1.0)))


@settings(max_examples=300)
@given(methods, sides, st.lists(numbers, min_size=15, max_size=15))
def test_no_number_raises_or_gives_an_endless_position(method, side, drawn):
    prob, mu, sigma, epistemic, low, high, *rest = drawn
    price, volatility, rate, following, equity, gross, net, stop, cost = rest
    assume(price <= 0.0 or not price < math.inf or price > 1e-9)
    found = size(
        configure(method),
        Signal(prob, 16, mu, sigma, epistemic, low, high),
        side,
        view(price, volatility, rate, following),
        AccountView(equity, gross, net),
        BTC,
        stop,
        TradeCosts(cost, 32.0),
    )
    assert 0.0 <= found.quantity < math.inf
    assert 0.0 <= found.fraction <= 0.2
    assert found.bound_by in BOUND_BY


# Settings


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"method": "volatility_target"}, "bars_per_day must be stated"),
        ({"max_gross": 0.5}, "max_net must be at most max_gross"),
        ({"min_notional": 10.0, "max_notional": 5.0}, "min_notional must be at most max_notional"),
        ({"fraction": 1.5}, "less than or equal to 1"),
        ({"method": "martingale"}, "Input should be"),
        ({"kelly": 0.5}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings_, message):
    with pytest.raises(ValidationError, match=message):
        SizingConfig(**settings_)


def test_the_caps_are_those_of_the_issue_by_default():
    config = SizingConfig()
    assert (config.method, config.fraction) == ("kelly", 0.5)
    assert (config.risk_per_trade, config.max_position) == (0.02, 0.20)
