"""What every kernel does in the same way: sums over windows, and bars that are missing.

Plain Python over `math` alone that numba can compile; see `research.kernels`.
"""

from __future__ import annotations

from typing import Any

type Row = Any
"""One dimension: a list, or a row of an array."""
type Table = Any
"""Two dimensions: a list of lists, or an array."""

NEVER = -1
"""Marks what has not happened."""
MAX_CARRIED = 64
"""Slots over which a last close stands for missing bars; then everything begins anew."""

# The first three ints of every instrument's state.
RUN_START, LAST_BAR, CURSOR = range(3)


def slide(f: Row, at: int, size: int, position: int, value: float) -> float:
    """Add a value to a window's sum, drop the oldest, and return the sum.

    `position` is the slot modulo `size`. At the start of a block the values of the last one
    become its suffix sums in place; the current block then overwrites them from the left, just
    behind the one suffix that is needed.
    """
    prefix = at + size + 1
    if position == 0:
        total = 0.0
        for index in range(at + size - 1, at - 1, -1):
            total += f[index]
            f[index] = total
        f[prefix] = 0.0
    f[at + position] = value
    newer: float = f[prefix] + value
    older: float = f[at + position + 1]
    f[prefix] = newer
    return newer + older


def first_slot(k: Row, slot: int, present: int) -> int:
    """Return the first slot that an instrument must take in now; more than `slot` if none.

    Groups of features (`research.groups`) share it: their state begins with the same three ints.
    Slots before `slot`, and `slot` itself without a bar, are to be pushed as `carried`. When the
    slot returned is ``k[RUN_START]``, everything before it is to be forgotten.
    """
    last = k[LAST_BAR]
    expired = last == NEVER or slot - last > MAX_CARRIED
    if expired and present == 0:
        return slot + 1
    first: int = slot
    if expired:
        k[RUN_START] = slot
    else:
        first = k[CURSOR] + 1
    if present:
        k[LAST_BAR] = slot
    k[CURSOR] = slot
    return first


def carried(bars: Table, close: float) -> Row:
    """Return a bar in which nothing was traded after `close`, in the table's scratch row."""
    bar = bars[len(bars) - 1]
    bar[0] = bar[1] = bar[2] = bar[3] = close
    bar[4] = 0.0
    return bar
