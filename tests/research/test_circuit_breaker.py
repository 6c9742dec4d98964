"""The circuit breaker against a literal model of its states, and the staleness of inputs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydantic import ValidationError

from research.circuit_breaker import (
    BreakerConfig,
    CircuitBreaker,
    answer_fault,
    flat_reason,
    freshness,
)
from research.experts import ExpertOutput

LOGGER = "research.circuit_breaker"
DUE = np.array([True, True])


class Clock:
    """Stands still unless it is told to move on."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def wait(self, milliseconds: float) -> None:
        self.now += int(milliseconds * 1_000_000)


def good() -> ExpertOutput:
    return ExpertOutput.of_probability(np.array([0.4, 0.6]))


def not_a_number() -> ExpertOutput:
    return ExpertOutput.of_probability(np.array([0.4, np.nan]))


def impossible() -> ExpertOutput:
    return ExpertOutput.of_probability(np.array([0.4, 1.0]))


def raising() -> ExpertOutput:
    raise ValueError("the weights are gone")


class BreakerMachine(RuleBasedStateMachine):
    """Any order of answers, failures and bars; beside the breaker a model of plain words."""

    @initialize(first=st.integers(1, 5), growth=st.integers(1, 6))
    def start(self, first: int, growth: int) -> None:
        self.config = BreakerConfig(first_bars=first, max_bars=first * growth, timeout_ms=50.0)
        self.clock = Clock()
        self.breaker = CircuitBreaker("tft", self.config, self.clock)
        self.slot = 0
        self.out_until: int | None = None
        self.wait = first
        self.good_since: int | None = None
        self.trips = self.refused = self.asked = 0

    @rule(bars=st.integers(1, 12))
    def pass_time(self, bars: int) -> None:
        self.slot += bars

    @rule(
        what=st.sampled_from(["good", "late", "raising", "nan", "outside", "short", "warming up"])
    )
    def call(self, what: str) -> None:
        asked: list[str] = []

        def ask() -> ExpertOutput:
            asked.append(what)
            self.clock.wait(51.0 if what == "late" else 49.0)
            if what == "short":
                return ExpertOutput.of_probability(np.array([0.5]))
            answers = {"raising": raising, "nan": not_a_number, "outside": impossible}
            return not_a_number() if what == "warming up" else answers.get(what, good)()

        due = np.array([True, what != "warming up"])
        answer = self.breaker.call(self.slot, due, ask)
        if self.out_until is not None and self.slot < self.out_until:
            self.refused += 1
            assert answer is None
            assert not asked
            return
        self.asked += 1
        assert asked == [what]
        self.expect(answer, succeeded=what in ("good", "warming up"))

    def expect(self, answer: ExpertOutput | None, *, succeeded: bool) -> None:
        assert (answer is not None) == succeeded
        if not succeeded:
            self.trips += 1
            self.out_until = self.slot + self.wait
            self.wait = min(2 * self.wait, self.config.max_bars)
        elif self.out_until is not None:
            self.out_until, self.good_since = None, self.slot
        elif self.good_since is not None and self.slot - self.good_since >= self.wait:
            self.wait, self.good_since = self.config.first_bars, None

    @invariant()
    def shows_what_it_is(self) -> None:
        if not hasattr(self, "breaker"):
            return
        state = self.breaker.state
        assert state.name == "tft"
        assert (state.trips, state.failures) == (self.trips, self.trips)
        assert (state.calls, state.refusals) == (self.asked, self.refused)
        assert state.retry_slot == self.out_until
        assert state.wait_bars == self.wait <= self.config.max_bars
        assert (state.status == "closed") == (self.out_until is None)
        assert bool(state.reason) == (self.trips > 0)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, LOGGER)


def test_waits_double_up_to_the_cap_and_are_forgiven() -> None:
    breaker = CircuitBreaker("lstm", BreakerConfig(first_bars=2, max_bars=5), Clock())
    slot, waits = 0, []
    for _ in range(4):
        assert breaker.call(slot, DUE, raising) is None
        retry = breaker.state.retry_slot
        assert retry is not None
        waits.append(retry - slot)
        assert breaker.call(retry - 1, DUE, good) is None
        slot = retry
    assert waits == [2, 4, 5, 5]
    assert breaker.call(slot, DUE, good) is not None
    assert breaker.state.status == "closed"
    assert breaker.call(slot + 4, DUE, good) is not None
    assert breaker.state.wait_bars == 5  # not long enough yet
    assert breaker.call(slot + 5, DUE, good) is not None
    assert breaker.state.wait_bars == 2


def test_a_trip_says_why() -> None:
    reasons = []
    for ask in (raising, not_a_number, impossible):
        breaker = CircuitBreaker("tft", BreakerConfig(), Clock())
        breaker.call(1, DUE, ask)
        reasons.append(breaker.state.reason)
    assert reasons == [
        "raised ValueError: the weights are gone",
        "gave NaN for 1 of 2 rows",
        "gave a probability of 1.0, outside (0, 1)",
    ]


def test_a_late_answer_is_a_failure_only_where_there_is_a_limit() -> None:
    clock = Clock()

    def slow() -> ExpertOutput:
        clock.wait(300.0)
        return good()

    limited = CircuitBreaker("tft", BreakerConfig(timeout_ms=250.0), clock)
    assert limited.call(1, DUE, slow) is None
    assert limited.state.reason == "took 300.0 ms, more than 250 ms"
    patient = CircuitBreaker("tft", BreakerConfig(), clock)  # as replays need it
    assert patient.call(1, DUE, slow) is not None


def test_an_interrupt_goes_through() -> None:
    def interrupted() -> ExpertOutput:
        raise KeyboardInterrupt

    breaker = CircuitBreaker("tft", BreakerConfig(), Clock())
    with pytest.raises(KeyboardInterrupt):
        breaker.call(1, DUE, interrupted)
    assert breaker.state.trips == 0


def test_the_status_is_half_open_while_the_trial_runs() -> None:
    breaker = CircuitBreaker("tft", BreakerConfig(first_bars=2), Clock())
    breaker.call(1, DUE, raising)
    assert breaker.state.status == "open"
    seen: list[str] = []

    def watched() -> ExpertOutput:
        seen.append(breaker.state.status)
        return good()

    breaker.call(3, DUE, watched)
    assert seen == ["half-open"]
    assert breaker.state.status == "closed"


def test_every_trip_is_counted_and_the_log_is_not_flooded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = BreakerConfig(first_bars=1, max_bars=1, log_bars=10)
    breaker = CircuitBreaker("tft", config, Clock())
    for slot in range(25):
        breaker.call(slot, DUE, raising)
    assert breaker.state.trips == 25
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(messages) == 3
    assert "expert tft raised ValueError: the weights are gone; left out for 1 bars" in messages[0]
    assert "trip 1, 0 not logged" in messages[0]
    assert "trip 11, 9 not logged" in messages[1]
    assert "trip 21, 9 not logged" in messages[2]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("prob_up", 0.0, "probability of 0.0"),
        ("prob_up", -0.5, "probability of -0.5"),
        ("prob_up", np.inf, "probability of inf"),
        ("mu", -np.inf, "mu of -inf"),
        ("sigma", -1.0, "sigma of -1.0"),
        ("epistemic", -0.1, "epistemic of -0.1"),
    ],
)
def test_nonsense_is_told_from_no_answer(name: str, value: float, text: str) -> None:
    columns = {column: np.full(2, 0.5) for column in ("prob_up", "mu", "sigma", "epistemic")}
    assert answer_fault(ExpertOutput(**columns), DUE) == ""
    columns[name] = np.array([0.5, value])
    assert text in answer_fault(ExpertOutput(**columns), DUE)
    columns[name] = np.array([0.5, np.nan])
    assert bool(answer_fault(ExpertOutput(**columns), DUE)) == (name == "prob_up")
    assert answer_fault(ExpertOutput(**columns), ~DUE) == ""
    columns[name] = np.array([0.5])
    assert f"gave {name} of shape (1,)" in answer_fault(ExpertOutput(**columns), DUE)


def test_a_cap_below_the_first_wait_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"max_bars must be at least first_bars \(8\), was 4"):
        BreakerConfig(first_bars=8, max_bars=4)


@settings(max_examples=50, deadline=None)
@given(fresh=st.floats(0, 100), width=st.floats(0.1, 100))
def test_freshness_falls_from_one_to_zero(fresh: float, width: float) -> None:
    ages = np.linspace(0.0, 2.0 * (fresh + width), 200)
    found = freshness(ages, fresh, fresh + width)
    assert (found[ages <= fresh] == 1.0).all()
    assert (found[ages >= fresh + width] == 0.0).all()
    assert (np.diff(found) <= 0.0).all()
    half = freshness(np.array([fresh + width / 2.0, np.nan]), fresh, fresh + width)
    np.testing.assert_allclose(half, [0.5, 0.0], atol=1e-9)


def test_flat_says_which_input_is_too_old() -> None:
    limits = {"onchain": 96.0, "news": 32.0}
    assert flat_reason({"onchain": 96.0, "news": 0.0, "funding": 1e9}, limits) == ""
    assert flat_reason({"onchain": 97.0, "news": 1.0}, limits) == (
        "onchain is 97 bars old, more than 96"
    )
    assert flat_reason({"onchain": np.nan}, limits) == (
        "onchain was never seen; news was never seen"
    )
