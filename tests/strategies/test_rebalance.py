"""Rebalancing: the fewest orders, inside the band, at the least cost."""

from __future__ import annotations

import dataclasses
import itertools
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import minimize_scalar

from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_DAY, parse_time
from strategies.execution import InstrumentTerms, exact_decimal
from strategies.rebalance import Book, Holding, RebalanceConfig, due, plan, target_weights
from strategies.rebalance_orders import Plan
from strategies.risk_parity import equal_risk_weights, risk_contributions

MONDAY = parse_time("2024-01-08T02:00:00")
EQUITY = 100_000.0
FREE = RebalanceConfig(max_gross=100.0, max_net=100.0, max_position=100.0)


def terms(name: str, step: str = "0.001", least: str = "0", notional: str = "0") -> InstrumentTerms:
    return InstrumentTerms(name, Decimal("0.1"), Decimal(step), Decimal(least), Decimal(notional))


def holding(name: str, weight: float, price: float = 100.0, **changes: object) -> Holding:
    """Return a position worth `weight` of `EQUITY`, on its step."""
    step = Decimal("0.001")
    size = exact_decimal(weight * EQUITY / price)
    quantity = float((size / step).to_integral_value() * step)
    made = Holding(terms(name), quantity, price, 0.6, 0.0007)
    return made._replace(**changes)  # type: ignore[arg-type]


def book(*holdings: Holding, equity: float = EQUITY, ts_ns: int = MONDAY) -> Book:
    return Book(ts_ns, equity, holdings)


def applied(before: Book, planned: Plan) -> Book:
    """Return the book after every order of a plan has filled at its price."""
    changes = {
        trade.instrument: trade.side * exact_decimal(trade.quantity) for trade in planned.trades
    }
    moved = tuple(
        one._replace(
            quantity=float(
                exact_decimal(one.quantity) + changes.get(one.terms.instrument_id, Decimal(0))
            )
        )
        for one in before.holdings
    )
    return before._replace(holdings=moved)


def weights(state: Book) -> list[float]:
    return [one.quantity * one.price / state.equity for one in state.holdings]


# Multiples of a thousandth, of either sign: drifts at, below and above the band all occur.
WEIGHTS = st.integers(-300, 300).filter(lambda number: abs(number) >= 5).map(lambda n: n / 1000)
TARGETS = st.integers(-300, 300).map(lambda number: number / 1000)


@st.composite
def cases(draw: st.DrawFn, least: int = 1) -> tuple[Book, dict[str, float]]:
    pairs = draw(st.lists(st.tuples(WEIGHTS, TARGETS), min_size=least, max_size=6))
    prices = draw(
        st.lists(st.sampled_from([0.37, 21.0, 43_210.5]), min_size=len(pairs), max_size=len(pairs))
    )
    volatility = draw(st.sampled_from([0.3, 0.8, 2.0, math.nan, 0.0]))
    cost = draw(st.sampled_from([0.0, 0.0005, 0.003]))
    holdings = [
        holding(f"I{i}", weight, price, annual_volatility=volatility, cost_frac=cost)
        for i, ((weight, _), price) in enumerate(zip(pairs, prices, strict=True))
    ]
    return book(*holdings), {f"I{i}": target for i, (_, target) in enumerate(pairs)}


@settings(max_examples=200, deadline=None)
@given(cases())
def test_as_many_orders_as_weights_outside_the_band_and_none_remains(
    case: tuple[Book, dict[str, float]],
) -> None:
    before, targets = case
    planned = plan(FREE, before, targets)
    drifts = [
        abs(weight - target)
        for weight, target in zip(weights(before), targets.values(), strict=True)
    ]
    assert len(planned.trades) == sum(drift > FREE.drift_frac + 1e-12 for drift in drifts)
    after = applied(before, planned)
    for weight, old, target in zip(weights(after), weights(before), targets.values(), strict=True):
        assert abs(weight - target) <= FREE.drift_frac + 1e-9
        # Never beyond target, holding or zero: no order overshoots.
        assert min(old, target, 0.0) - 1e-9 <= weight <= max(old, target, 0.0) + 1e-9
    # What is in the band stays as it is: a second plan has no orders.
    assert plan(FREE, after, targets).trades == ()


@settings(max_examples=150, deadline=None)
@given(cases(least=2), st.floats(0.05, 1.5))
def test_under_an_exposure_limit_no_smaller_set_of_orders_would_do(
    case: tuple[Book, dict[str, float]], room: float
) -> None:
    before, targets = case
    # Any exposure from that of the targets upwards can be reached.
    limit = sum(abs(target) for target in targets.values()) + 0.01 + room * 0.2
    config = FREE.model_copy(update={"max_gross": limit})
    planned = plan(config, before, targets)
    after = applied(before, planned)
    # Each position is held in steps of less than half a thousandth of equity.
    assert sum(abs(weight) for weight in weights(after)) <= limit + 6 * 5e-4
    old, wanted = weights(before), list(targets.values())
    fewest = min(
        len(chosen)
        for size in range(len(old) + 1)
        for chosen in itertools.combinations(range(len(old)), size)
        if feasible(set(chosen), old, wanted, limit)
    )
    assert len(planned.trades) == fewest


def feasible(chosen: set[int], old: list[float], wanted: list[float], limit: float) -> bool:
    """Return whether trading only `chosen` can bring all into the band and exposure below limit."""
    total = 0.0
    for i, (weight, target) in enumerate(zip(old, wanted, strict=True)):
        in_band = abs(weight - target) <= 0.05 + 1e-12
        if i not in chosen:
            if not in_band:
                return False
            total += abs(weight)
            continue
        ends = (
            (weight, target) if in_band else (target - math.copysign(0.05, target - weight), target)
        )
        # An unwanted position is closed, and so is none of its exposure left.
        total += 0.0 if target == 0.0 or ends[0] * ends[1] <= 0 else min(map(abs, ends))
    return total <= limit + 1e-12


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(0.02, 0.6))
def test_orders_never_raise_exposure_above_its_limit(
    case: tuple[Book, dict[str, float]], limit: float
) -> None:
    before, targets = case
    planned = plan(FREE.model_copy(update={"max_gross": limit}), before, targets)
    old = sum(abs(weight) for weight in weights(before))
    new = sum(abs(weight) for weight in weights(applied(before, planned)))
    assert new <= max(limit, old) + 6 * 5e-4


@settings(max_examples=60, deadline=None)
@given(cases())
def test_mirrored_positions_give_mirrored_orders(case: tuple[Book, dict[str, float]]) -> None:
    before, targets = case
    planned = plan(FREE, before, targets)
    mirrored = before._replace(
        holdings=tuple(one._replace(quantity=-one.quantity) for one in before.holdings)
    )
    other = plan(FREE, mirrored, {name: -target for name, target in targets.items()})
    assert [trade._replace(side=-trade.side) for trade in other.trades] == list(planned.trades)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([10.0, 1000.0]))
def test_orders_grow_with_equity(case: tuple[Book, dict[str, float]], factor: float) -> None:
    before, targets = case
    larger = Book(
        before.ts_ns,
        before.equity * factor,
        tuple(one._replace(quantity=one.quantity * factor) for one in before.holdings),
    )
    small = {move.instrument: move.after for move in plan(FREE, before, targets).moves}
    for move in plan(FREE, larger, targets).moves:
        assert move.after == pytest.approx(small[move.instrument], abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_dearer_trading_trades_no_more(case: tuple[Book, dict[str, float]]) -> None:
    before, targets = case
    turnover = []
    for cost in (0.0, 0.0002, 0.001, 0.1):
        dear = before._replace(
            holdings=tuple(one._replace(cost_frac=cost) for one in before.holdings)
        )
        turnover.append(plan(FREE, dear, targets).turnover)
    assert turnover == sorted(turnover, reverse=True)


@pytest.mark.parametrize("cost", [0.0, 0.0002, 0.0005, 0.01])
def test_the_drift_left_costs_the_least_growth(cost: float) -> None:
    before = book(holding("A", 0.30, annual_volatility=0.8, cost_frac=cost))
    after = plan(FREE, before, {"A": 0.15}).moves[0].after
    years = 7 / 365  # MONDAY is a Monday at two: the next time is a week away

    def loss(weight: float) -> float:
        drift = weight - 0.15
        return FREE.risk_aversion * 0.8**2 * years * drift**2 / 2.0 + cost * (0.30 - weight)

    best = minimize_scalar(loss, bounds=(0.10, 0.20), method="bounded").x
    assert after == pytest.approx(best, abs=2e-5)


def test_free_trading_goes_to_the_target_and_unknown_risk_only_into_the_band() -> None:
    free = holding("A", 0.30, cost_frac=0.0)
    unknown = holding("B", 0.30, cost_frac=0.0, annual_volatility=math.nan)
    planned = plan(FREE, book(free, unknown), {"A": 0.15, "B": 0.15})
    assert {move.instrument: round(move.after, 5) for move in planned.moves} == {
        "A": 0.15,
        "B": 0.20,
    }


def test_an_unwanted_position_is_closed_whole_and_as_it_is() -> None:
    odd = holding("A", 0.3, quantity=-1234.5678)
    (trade,) = plan(FREE, book(odd, equity=1e5), {"A": 0.0}).trades
    assert trade == ("A", 1, 1234.5678, True, pytest.approx(1234.5678 * 100 * 0.0007), "close")


def test_reductions_come_first_and_only_they_are_reduce_only() -> None:
    state = book(
        holding("UP", 0.05), holding("DOWN", 0.30), holding("SIDE", -0.10), holding("GONE", 0.10)
    )
    planned = plan(FREE, state, {"UP": 0.2, "DOWN": 0.1, "SIDE": 0.15, "GONE": 0.0})
    assert [(trade.instrument, trade.reduce_only, trade.side) for trade in planned.trades] == [
        ("DOWN", True, -1),
        ("GONE", True, -1),
        ("SIDE", False, 1),
        ("UP", False, 1),
    ]


def test_a_position_without_a_target_is_left_alone_and_named() -> None:
    planned = plan(FREE, book(holding("A", 0.3), holding("B", 0.3)), {"A": 0.1})
    assert [trade.instrument for trade in planned.trades] == ["A"]
    assert [move.note for move in planned.moves if move.instrument == "B"] == ["no_target"]


def test_what_the_exchange_refuses_is_enlarged_inside_the_target_or_left() -> None:
    # An order of 5 % of equity (the band's edge) is below 8,000 USDT, one to the target above.
    fits = holding("A", 0.10, terms=terms("A", notional="8000"), annual_volatility=math.nan)
    (trade,) = plan(FREE, book(fits), {"A": 0.20}).trades
    assert trade.quantity == 80.0
    never = fits._replace(terms=terms("A", notional="12000"))
    planned = plan(FREE, book(never), {"A": 0.20})
    assert (planned.trades, planned.moves[0].note) == ((), "below_minimum")
    # What only reduces has no smallest value, but a smallest quantity.
    less = never._replace(quantity=200.0)
    (trade,) = plan(FREE, book(less), {"A": 0.10}).trades
    assert (trade.quantity, trade.reduce_only) == (50.0, True)
    larger = less._replace(terms=terms("A", least="70"))
    assert plan(FREE, book(larger), {"A": 0.10}).trades[0].quantity == 70.0


def test_an_order_enlarged_to_the_minimum_never_turns_a_position() -> None:
    config = FREE.model_copy(update={"drift_frac": 0.15})
    small = holding("A", 0.20, terms=terms("A", least="250"))
    planned = plan(config, book(small), {"A": 0.04})
    assert (planned.trades, planned.moves[0].note) == ((), "below_minimum")


def test_a_band_between_two_steps_is_left_and_named() -> None:
    coarse = holding("A", 0.0, terms=terms("A", step="1000"), quantity=1000.0, price=100.0)
    planned = plan(FREE, book(coarse, equity=1e6), {"A": 0.19})
    assert (planned.trades, planned.moves[0].note) == ((), "step")


def test_positions_are_rounded_towards_zero() -> None:
    # The target of 20 % is 200 units, between 196 and 203.
    coarse = terms("A", step="7")
    grown = holding("A", 0.105, terms=coarse, quantity=105.0, cost_frac=0.0)
    lowered = grown._replace(quantity=301.0)
    for sign in (1, -1):
        for one in (grown, lowered):
            state = book(one._replace(quantity=sign * one.quantity))
            assert weights(applied(state, plan(FREE, state, {"A": sign * 0.2}))) == [sign * 0.196]


def test_given_up_increases_are_named() -> None:
    state = book(holding("A", 0.30), holding("B", 0.10))
    config = FREE.model_copy(update={"max_gross": 0.40})
    planned = plan(config, state, {"B": 0.25})
    assert planned.trades == ()
    assert {move.instrument: move.note for move in planned.moves} == {
        "A": "no_target",
        "B": "max_gross",
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (book(holding("A", 0.3), equity=0.0), r"equity must be above 0 and finite, was 0\.0"),
        (book(holding("A", 0.3), equity=math.nan), "equity must be above 0 and finite, was nan"),
        (book(holding("A", 0.3, price=-1.0)), r"price of A must be above 0.*was -1\.0"),
        (book(holding("A", 0.3)._replace(price=math.nan)), "price of A .* was nan"),
        (book(holding("A", 0.3, quantity=math.inf)), "quantity of A must be finite, was inf"),
        (book(holding("A", 0.3, cost_frac=-0.1)), r"cost of A must be at least 0.*was -0\.1"),
    ],
)
def test_unusable_numbers_plan_nothing_and_say_so(changed: Book, message: str) -> None:
    planned = plan(FREE, changed, {"A": 0.1})
    assert planned.trades == ()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(str(planned))


def test_a_target_that_is_none_plans_nothing() -> None:
    planned = plan(FREE, book(holding("A", 0.3)), {"A": math.nan})
    assert (planned.trades, planned.refused) == ((), "target of A must be finite, was nan")


def test_a_dry_run_is_one_readable_table() -> None:
    state = book(
        holding("BTCUSDT-PERP.BINANCE", 0.30, 42_000.0),
        holding("ETHUSDT-PERP.BINANCE", -0.12, 2_250.0),
        holding("SOLUSDT-PERP.BINANCE", 0.02),
    )
    config = RebalanceConfig()
    targets = {"BTCUSDT-PERP.BINANCE": 0.2, "ETHUSDT-PERP.BINANCE": -0.15}
    assert str(plan(config, state, targets)).splitlines() == [
        "Rebalancing at 2024-01-08 02:00:00 (next 2024-01-15 02:00:00): 1 order, "
        "4,998.00 USDT traded at 3.50 USDT (0.35 bps of equity 100,000.00); "
        "exposure 44.0% -> 39.0%",
        "instrument              weight    target     after  order",
        "BTCUSDT-PERP.BINANCE   +29.99%   +20.00%   +24.99%  "
        "sell 0.119 reduce-only, 3.50 USDT: drift",
        "ETHUSDT-PERP.BINANCE   -12.00%   -15.00%   -12.00%  none: in_band",
        "SOLUSDT-PERP.BINANCE    +2.00%         -    +2.00%  none: no_target",
    ]
    assert str(plan(config, book(), {})).endswith("exposure 0.0% -> 0.0%\nno positions")


# -- targets -------------------------------------------------------------------------------------


def covariance(n: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    returns = (rng.normal(size=(200, 1)) + rng.normal(size=(200, n))) * rng.uniform(0.01, 0.05, n)
    return np.cov(returns.T).reshape(n, n)


def test_risk_parity_keeps_sides_and_what_is_invested() -> None:
    state = book(holding("A", 0.20), holding("B", -0.10), holding("C", 0.06))
    targets = target_weights(FREE, state, covariance(3))
    values = np.array(list(targets.values()))
    assert np.abs(values).sum() == pytest.approx(0.36, rel=1e-9)
    assert np.sign(values).tolist() == [1.0, -1.0, 1.0]
    contributions = risk_contributions(values, covariance(3))
    assert np.allclose(contributions, contributions[0], rtol=1e-8)
    fixed = target_weights(FREE.model_copy(update={"gross": 0.9}), state, covariance(3))
    assert np.allclose(list(fixed.values()), values * (0.9 / 0.36), rtol=1e-8)


def test_targets_keep_every_limit() -> None:
    state = book(*(holding(name, 0.4) for name in "ABCDE"))
    config = RebalanceConfig(max_position=0.2, max_gross=0.8, max_net=0.5)
    targets = np.array(list(target_weights(config, state, covariance(5)).values()))
    assert targets.sum() == pytest.approx(0.5)
    loose = config.model_copy(update={"max_net": 5.0})
    targets = np.array(list(target_weights(loose, state, covariance(5)).values()))
    assert targets.sum() == pytest.approx(0.8)
    assert targets.max() <= 0.2
    expected = equal_risk_weights(covariance(5), [1] * 5, 0.8, 0.2)
    assert np.array_equal(targets, expected)


def test_kelly_closes_what_no_longer_pays_and_turns_nothing() -> None:
    state = book(holding("A", 0.20), holding("B", -0.10), holding("C", 0.06))
    config = FREE.model_copy(update={"method": "kelly", "kelly_fraction": 0.5})
    risk = np.diag([0.04, 0.09, 0.16])
    targets = target_weights(config, state, risk, np.array([0.02, 0.01, 0.04]))
    assert list(targets.values()) == pytest.approx([0.25, 0.0, 0.125])
    assert target_weights(config, state, risk, np.array([-0.1, 0.1, 0.0])) == dict.fromkeys(
        "ABC", 0.0
    )
    capped = target_weights(
        config.model_copy(update={"max_position": 0.1}), state, risk, np.array([0.02, -0.01, 0.04])
    )
    assert list(capped.values()) == pytest.approx([0.1, -0.5 / 9, 0.1])


def test_kelly_without_expected_returns_is_refused() -> None:
    config = RebalanceConfig(method="kelly")
    with pytest.raises(ConfigError, match="mu must be given for method 'kelly'"):
        target_weights(config, book(holding("A", 0.2)), np.eye(1))


def test_no_positions_have_no_targets() -> None:
    assert target_weights(FREE, book(), np.zeros((0, 0))) == {}


# -- when ----------------------------------------------------------------------------------------


def test_due_follows_the_schedule_or_never() -> None:
    config = RebalanceConfig()
    assert due(config, MONDAY, MONDAY - NS_PER_DAY)
    assert not due(config, MONDAY - 1, MONDAY - NS_PER_DAY)
    assert not due(config, MONDAY + NS_PER_DAY, MONDAY)
    assert not due(RebalanceConfig(schedule=None), MONDAY, 0)


def test_the_schedule_is_normalised_or_refused() -> None:
    assert RebalanceConfig(schedule="0 2  * * mon") == RebalanceConfig()
    with pytest.raises(ValidationError, match="must be a cron expression of five fields"):
        RebalanceConfig(schedule="0 25 * * *")


def test_the_longer_drift_lasts_the_more_of_it_is_removed() -> None:
    state = book(holding("A", 0.30))
    daily = FREE.model_copy(update={"schedule": "0 2 * * *"})
    monthly = FREE.model_copy(update={"schedule": "0 2 8 * *"})
    sold = [plan(config, state, {"A": 0.1}).turnover for config in (daily, FREE, monthly)]
    assert sold == sorted(sold)
    assert sold[0] < sold[2]
    never = FREE.model_copy(update={"schedule": None})
    assert plan(never, state, {"A": 0.1}).turnover == sold[1]


# ---- the exchange's largest order


def limited(one: Holding, most: str) -> Holding:
    return one._replace(terms=dataclasses.replace(one.terms, max_quantity=Decimal(most)))


@pytest.mark.parametrize(
    ("before", "target", "quantity", "after", "only"),
    [
        (0.10, 0.30, 50.0, 0.15, False),
        (0.30, 0.10, 50.0, 0.25, True),
        (0.30, 0.0, 50.0, 0.25, True),
        (-0.30, -0.10, 50.0, -0.25, True),
        # It would have gone through zero; what is left of it does not.
        (0.10, -0.30, 50.0, 0.05, True),
    ],
)
def test_an_order_above_the_largest_is_cut_and_says_so(
    before: float, target: float, quantity: float, after: float, only: bool
) -> None:
    # A multiple that is no step's is rounded down.
    state = book(limited(holding("A", before), "50.0009"))
    planned = plan(FREE, state, {"A": target})
    (move,) = planned.moves
    assert move.trade is not None
    assert (move.trade.quantity, move.trade.reduce_only) == (quantity, only)
    assert move.note == "max_quantity"
    assert move.after == pytest.approx(after)
    assert weights(applied(state, planned)) == pytest.approx([after])
    assert "cut by max_quantity" in str(planned)


def test_what_a_cut_reduction_does_not_free_is_not_given_to_others() -> None:
    config = RebalanceConfig(max_gross=0.5, max_net=0.5, max_position=0.5)
    state = book(limited(holding("A", 0.4), "50"), holding("B", 0.1))
    planned = plan(config, state, {"A": 0.1, "B": 0.4})
    assert sum(map(abs, weights(applied(state, planned)))) <= 0.5 + 1e-9
    whole = plan(config, book(holding("A", 0.4), holding("B", 0.1)), {"A": 0.1, "B": 0.4})
    assert whole.trades[1].quantity > planned.trades[1].quantity


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(["0.001", "0.4", "37.5"]))
def test_no_order_is_above_the_largest_and_orders_lead_there_in_the_end(
    case: tuple[Book, dict[str, float]], most: str
) -> None:
    before, targets = case
    state = before._replace(holdings=tuple(limited(one, most) for one in before.holdings))
    planned = plan(FREE, state, targets)
    assert all(0.0 < trade.quantity <= float(most) for trade in planned.trades)
    for move in planned.moves:
        if not math.isnan(move.target):
            assert abs(move.after - move.target) <= abs(move.before - move.target) + 1e-12
