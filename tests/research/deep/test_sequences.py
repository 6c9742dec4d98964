"""Runs, pieces and the clock: what a model has seen when it answers, in batch and bar by bar."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import ConfigError, DataError
from research.kernel_tools import MAX_CARRIED
from research.models.deep.sequences import (
    Memory,
    RunClock,
    Tokens,
    answer_pieces,
    training_pieces,
)

WINDOW = Memory(phases=1, reach=5)
PERIODIC = Memory(phases=2, reach=15, period=8)
LONG = Memory(phases=2, reach=199, period=100)  # longer than the longest gap: a hole fits in
MEMORIES = (WINDOW, PERIODIC, LONG)
INTERVAL = 60


@st.composite
def histories(draw: st.DrawFn) -> Tokens:
    """Draw one to three instruments with missing bars, holes about as long as any allowed."""
    steps = st.sampled_from([1] * 12 + [2, 7, 9, MAX_CARRIED, MAX_CARRIED + 1, 90])
    slots, codes = [], []
    for code in range(draw(st.integers(1, 3))):
        gaps = draw(st.lists(steps, min_size=1, max_size=60))
        slots.append(draw(st.integers(1_000, 1_020)) + np.cumsum(gaps))
        codes.append(np.full(len(gaps), code))
    slot, code = np.concatenate(slots), np.concatenate(codes)
    return Tokens.of(slot * INTERVAL, code, np.ones(len(slot), dtype=np.bool_), INTERVAL)


def seen_in_batch(tokens: Tokens, memory: Memory, wanted: np.ndarray) -> dict[int, list[int]]:
    """Return the tokens that each answer of a batch knows of, by the answering token."""
    pieces = answer_pieces(tokens, wanted, memory, length=4)
    seen: dict[int, list[int]] = {}
    for numbers, answers in zip(*pieces.tokens(), strict=True):
        for place in np.flatnonzero(answers):
            assert numbers[place] not in seen  # answered once
            known = numbers[: place + 1].tolist()
            seen[int(numbers[place])] = known[-memory.reach - 1 :] if memory.phases == 1 else known
    return seen


def seen_in_stream(tokens: Tokens, memory: Memory, start: int) -> dict[int, list[int]]:
    """Return the same of a stream from slot `start` on, whose states are lists of tokens."""
    clock = RunClock(3, memory)
    states: dict[tuple[int, int], list[int]] = {}
    seen: dict[int, list[int]] = {}
    for slot in np.unique(tokens.slot[tokens.slot >= start]).tolist():
        numbers = np.flatnonzero(tokens.slot == slot)
        turn = clock.advance(slot, tokens.code[numbers])
        for place, number in enumerate(numbers.tolist()):
            for phase in range(memory.phases):
                key = phase, int(tokens.code[number])
                if turn.empty[phase, place]:
                    states[key] = []
                kept = [*states[key], number]
                states[key] = kept[-memory.reach - 1 :] if memory.phases == 1 else kept
            if turn.ready[place]:
                key = int(turn.answering[place]), int(tokens.code[number])
                seen[number] = list(states[key])
    return seen


@pytest.mark.parametrize("memory", MEMORIES)
@settings(deadline=None, max_examples=60)
@given(tokens=histories(), start=st.integers(990, 1_200))
def test_a_stream_knows_what_a_batch_knows_wherever_it_begins(
    memory: Memory, tokens: Tokens, start: int
) -> None:
    everything = np.ones(len(tokens), dtype=np.bool_)
    batch = seen_in_batch(tokens, memory, everything)
    assert seen_in_stream(tokens, memory, 0) == batch
    late = seen_in_stream(tokens, memory, start)
    assert late.items() == {n: s for n, s in batch.items() if n in late}.items()
    # With a period, history in slots decides; with a window, tokens do.
    for number in batch:
        slot, run = tokens.slot[number], tokens.run[number]
        if memory.phases == 2:
            warm = slot - memory.reach_bars >= start
        else:
            warm = tokens.slot[max(number - memory.reach, run)] >= start
        assert number in late or not warm


@pytest.mark.parametrize("memory", MEMORIES)
@settings(deadline=None, max_examples=40)
@given(tokens=histories(), data=st.data())
def test_what_is_asked_beside_changes_no_history(
    memory: Memory, tokens: Tokens, data: st.DataObject
) -> None:
    count = len(tokens)
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    everything = seen_in_batch(tokens, memory, np.ones(count, dtype=np.bool_))
    some = seen_in_batch(tokens, memory, wanted)
    answerable = set(np.flatnonzero(wanted & tokens.answerable(memory)).tolist())
    assert answerable <= some.keys()
    assert some.items() <= everything.items() or all(some[n] == everything[n] for n in some)


def test_a_window_answers_from_the_first_token_that_has_a_full_one() -> None:
    tokens = _one_run(np.arange(100, 110))
    assert tokens.answerable(WINDOW).tolist() == [False] * 5 + [True] * 5
    assert answer_pieces(tokens, np.ones(10, dtype=np.bool_), WINDOW, 3).tokens()[0].tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [3, 4, 5, 6, 7, 8, 9, 9],
    ]


def test_a_period_answers_in_the_second_half_of_a_life() -> None:
    tokens = _one_run(np.arange(94, 115))  # states start at 88, 96, 104, 112
    assert tokens.slot[tokens.answerable(PERIODIC)].tolist() == list(range(104, 115))
    pieces = answer_pieces(tokens, np.ones(len(tokens), dtype=np.bool_), PERIODIC, 99)
    assert [(94 + f, n, a) for f, n, a in zip(*_columns(pieces), strict=True)] == [
        (96, 16, 8),
        (104, 11, 8),
    ]


def test_a_hole_begins_a_new_run_and_a_gap_does_not() -> None:
    slots = np.array([10, 11, 11 + MAX_CARRIED, 12 + 2 * MAX_CARRIED])
    assert _one_run(slots).run.tolist() == [0, 0, 0, 3]
    code = np.array([0, 0, 1, 1])
    both = Tokens.of(slots * INTERVAL, code, np.array([True, False, True, True]), INTERVAL)
    assert both.row.tolist() == [0, 2, 3]
    assert both.run.tolist() == [0, 1, 2]


@settings(deadline=None, max_examples=40)
@given(tokens=histories(), length=st.integers(1, 20), offset=st.integers(0, 19))
def test_training_pieces_hold_every_token_once(tokens: Tokens, length: int, offset: int) -> None:
    pieces = training_pieces(tokens, length, offset % length)
    numbers, inside = pieces.tokens(length)
    assert sorted(numbers[inside].tolist()) == list(range(len(tokens)))
    assert (tokens.run[numbers[:, 0]] == tokens.run[numbers[:, -1]]).all()


@pytest.mark.parametrize(
    ("phases", "reach", "period", "message"),
    [
        (1, 5, 8, "phases must be 1 without a period or 2 with one, was 1 with period 8"),
        (2, 5, 0, "phases must be 1 without a period or 2 with one, was 2 with period 0"),
        (3, 5, 8, "was 3"),
        (1, -1, 0, "reach must be at least 0, was -1"),
    ],
)
def test_memory_that_makes_no_sense_is_refused(
    phases: int, reach: int, period: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Memory(phases, reach, period)


def test_a_clock_refuses_what_does_not_go_on() -> None:
    clock = RunClock(2, WINDOW)
    clock.advance(10, np.array([0, 1]))
    with pytest.raises(DataError, match=r"slot must be after the last one \(10\), was 10"):
        clock.advance(10, np.array([1]))
    with pytest.raises(DataError, match=r"codes must be within \[0, 2\), were \[2\]"):
        clock.advance(11, np.array([2]))
    with pytest.raises(DataError, match=r"must be distinct, were \[0, 0\]"):
        clock.advance(11, np.array([0, 0]))


def _one_run(slots: np.ndarray) -> Tokens:
    count = len(slots)
    return Tokens.of(
        slots * INTERVAL, np.zeros(count, dtype=np.int64), np.ones(count, dtype=np.bool_), INTERVAL
    )


def _columns(pieces):  # type: ignore[no-untyped-def]
    return pieces.first.tolist(), pieces.length.tolist(), pieces.answers_from.tolist()
