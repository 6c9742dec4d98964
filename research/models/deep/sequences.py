"""Which rows a sequence model reads for an answer: the same in batch and bar by bar; no torch.

Tokens are the valid rows of one instrument in the order of time. More than `MAX_CARRIED` missing
slots between two of them start a new run, as they do for the features. Memory is finite, so that a
stream that starts anywhere comes to give the answers of a run over everything:

- phases = 1, attention with a window: an answer depends on `reach` tokens before its own and is
  given from the first token of a run that has so many;
- phases = 2, recurrent: a state starts empty at every absolute multiple of `period` slots and
  lives for two periods; in the second it answers. Two of them run at any time, one answers. There
  is no answer in a period if the run had not begun when the answering state did.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Int64Array
from catalog.errors import ConfigError, DataError
from research.kernel_tools import MAX_CARRIED

type BoolArray = NDArray[np.bool_]

_NEVER = -(2**62)


@dataclass(frozen=True, slots=True)
class Memory:
    """How far back a model looks.

    Parameters
    ----------
    phases : int
        1 for a window, 2 for staggered recurrent states.
    reach : int
        Tokens before its own that an answer can depend on.
    period : int
        Slots between two starts of a state; 0 with one phase.
    """

    phases: int
    reach: int
    period: int = 0

    def __post_init__(self) -> None:
        if self.phases not in (1, 2) or (self.phases == 2) != (self.period > 0):
            raise ConfigError(
                "phases must be 1 without a period or 2 with one, "
                f"was {self.phases} with period {self.period}"
            )
        if self.reach < 0:
            raise ConfigError(f"reach must be at least 0, was {self.reach}")

    @property
    def reach_bars(self) -> int:
        """Slots of history after which a stream answers like a run over everything.

        With a window it is a number of tokens: where bars are missing, as many more are needed.
        """
        # The bar in the very slot of a state's start may be missing, and the run begins earlier.
        return self.reach if self.phases == 1 else 2 * self.period - 1 + MAX_CARRIED


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The valid rows of a matrix as tokens, instrument by instrument in the order of time.

    Parameters
    ----------
    row : (n_tokens,) int64
        Row number of each in the matrix.
    slot : (n_tokens,) int64
        ``ts_init // interval_ns``.
    code : (n_tokens,) int64
        Instrument.
    run : (n_tokens,) int64
        Number of the first token of its run.
    """

    row: Int64Array
    slot: Int64Array
    code: Int64Array
    run: Int64Array

    @classmethod
    def of(
        cls, ts_init: Int64Array, instrument: Int64Array, valid: BoolArray, interval_ns: int
    ) -> Self:
        """Find the tokens of a matrix, all (n_rows,), instrument-major and sorted by time."""
        row = np.flatnonzero(valid)
        slot, code = ts_init[row] // interval_ns, instrument[row]
        starts = np.ones(len(row), dtype=np.bool_)
        starts[1:] = (code[1:] != code[:-1]) | (slot[1:] - slot[:-1] > MAX_CARRIED)
        run = np.maximum.accumulate(np.where(starts, np.arange(len(row)), 0))
        return cls(row, slot, code, run.astype(np.int64))

    def __len__(self) -> int:
        return len(self.row)

    def spans(self) -> list[tuple[int, int]]:
        """Return first and last-plus-one token of each run."""
        first = np.flatnonzero(self.run == np.arange(len(self)))
        return list(zip(first.tolist(), [*first[1:].tolist(), len(self)], strict=True))

    def answerable(self, memory: Memory) -> BoolArray:
        """Return which tokens have history enough for an answer, (n_tokens,)."""
        if memory.phases == 1:
            return np.arange(len(self)) - self.run >= memory.reach
        started = (self.slot // memory.period - 1) * memory.period
        return self.slot[self.run] <= started


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Stretches of tokens, each within one run, that a model reads from an empty state.

    Parameters
    ----------
    first : (n_pieces,) int64
        First token.
    length : (n_pieces,) int64
        Number of tokens.
    answers_from : (n_pieces,) int64
        Place within the piece of the first token whose answer counts.
    """

    first: Int64Array
    length: Int64Array
    answers_from: Int64Array

    @classmethod
    def of(cls, pieces: list[tuple[int, int, int]]) -> Self:
        """Join (first, length, answers_from)."""
        table = np.array(pieces, dtype=np.int64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])

    def __len__(self) -> int:
        return len(self.first)

    def take(self, which: Int64Array) -> Pieces:
        """Return some of the pieces."""
        return Pieces(self.first[which], self.length[which], self.answers_from[which])

    def tokens(self, width: int | None = None) -> tuple[Int64Array, BoolArray]:
        """Return the tokens of every piece, padded behind with its last one.

        What is behind does not matter to a causal model.

        Parameters
        ----------
        width : int, optional
            Tokens in a row of the result; the longest piece's if absent.

        Returns
        -------
        tokens : (n_pieces, width) int64
            Token numbers.
        answers : (n_pieces, width) bool
            True at the piece's own tokens from `answers_from` on.
        """
        width = int(self.length.max(initial=0)) if width is None else width
        places = np.arange(width)
        inside = np.minimum(places, self.length[:, None] - 1)
        answers = (places >= self.answers_from[:, None]) & (places < self.length[:, None])
        return self.first[:, None] + inside, answers


def answer_pieces(tokens: Tokens, wanted: BoolArray, memory: Memory, length: int) -> Pieces:
    """Cut what must be read to answer some tokens.

    Parameters
    ----------
    tokens : Tokens
        All there are.
    wanted : (n_tokens,) bool
        Those to answer; those without history enough are left out.
    memory : Memory
        Of the model.
    length : int
        Answers in a piece, at most (with a window; else a period decides).

    Returns
    -------
    Pieces
        Every wanted token that can be answered lies in the answering part of exactly one.
    """
    wanted = wanted & tokens.answerable(memory)
    found: list[tuple[int, int, int]] = []
    for start, end in tokens.spans():
        asked = start + np.flatnonzero(wanted[start:end])
        if not len(asked):
            continue
        if memory.phases == 1:
            first, last = int(asked[0]), int(asked[-1]) + 1
            found.extend(
                (at - memory.reach, memory.reach + min(length, last - at), memory.reach)
                for at in range(first, last, length)
            )
        else:
            found.extend(_period_pieces(tokens.slot[start:end], asked - start, start, memory))
    return Pieces.of(found)


def _period_pieces(
    slot: Int64Array, asked: Int64Array, start: int, memory: Memory
) -> list[tuple[int, int, int]]:
    """Return a piece for each period that holds a wanted token, of one run from token `start`."""
    blocks = np.unique(slot[asked] // memory.period)
    edges = np.stack([blocks - 1, blocks, blocks + 1]) * memory.period
    first, answers, end = np.searchsorted(slot, edges)
    return [
        (start + int(a), int(c - a), int(b - a))
        for a, b, c in zip(first, answers, end, strict=True)
    ]


def training_pieces(tokens: Tokens, length: int, offset: int) -> Pieces:
    """Cut all runs into pieces of `length` tokens, the first of `offset` (0: `length`)."""
    found: list[tuple[int, int, int]] = []
    for start, end in tokens.spans():
        edges = [start, *range(start + (offset or length), end, length), end]
        found.extend((first, last - first, 0) for first, last in pairwise(edges))
    return Pieces.of(found)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What to do with the tokens of one time.

    Parameters
    ----------
    empty : (phases, k) bool
        States to be emptied before the tokens are taken in.
    answering : (k,) int64
        Phase whose state answers.
    ready : (k,) bool
        Whether there is history enough for an answer.
    """

    empty: BoolArray
    answering: Int64Array
    ready: BoolArray


class RunClock:
    """Follow the runs of all instruments bar by bar: when states start anew and when they answer.

    Parameters
    ----------
    n_instruments : int
        Instruments, by code.
    memory : Memory
        Of the model.
    """

    def __init__(self, n_instruments: int, memory: Memory) -> None:
        self._memory = memory
        self._slot = np.full(n_instruments, _NEVER)
        self._run_slot = np.full(n_instruments, _NEVER)
        self._count = np.zeros(n_instruments, dtype=np.int64)
        self._block = np.full((2, n_instruments), _NEVER)

    def advance(self, slot: int, codes: Int64Array) -> Turn:
        """Take in that instruments have a token in a slot.

        Raises
        ------
        DataError
            If one of them already had one in this slot or a later one, or is unknown.
        """
        self._check(slot, codes)
        anew = slot - self._slot[codes] > MAX_CARRIED
        self._slot[codes] = slot
        self._run_slot[codes] = np.where(anew, slot, self._run_slot[codes])
        self._count[codes] = np.where(anew, 1, self._count[codes] + 1)
        if self._memory.phases == 1:
            ready = self._count[codes] > self._memory.reach
            return Turn(anew[None, :], np.zeros(len(codes), dtype=np.int64), ready)
        block = slot // self._memory.period
        # The state that starts in this block, and the one that started in the block before.
        started = np.array([block, block - 1]) if block % 2 == 0 else np.array([block - 1, block])
        empty = anew | (self._block[:, codes] != started[:, None])
        self._block[:, codes] = started[:, None]
        ready = self._run_slot[codes] <= (block - 1) * self._memory.period
        return Turn(empty, np.full(len(codes), (block - 1) % 2), ready)

    def _check(self, slot: int, codes: Int64Array) -> None:
        count = len(self._slot)
        if len(codes) and (codes.min() < 0 or codes.max() >= count):
            raise DataError(f"instrument codes must be within [0, {count}), were {codes.tolist()}")
        if len(set(codes.tolist())) != len(codes):
            raise DataError(f"instrument codes of a time must be distinct, were {codes.tolist()}")
        if len(codes) and slot <= self._slot[codes].max():
            raise DataError(
                f"slot must be after the last one ({self._slot[codes].max()}), was {slot}"
            )
