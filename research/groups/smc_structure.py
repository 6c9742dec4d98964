"""The state of the smart money concepts: what `research.groups.smc` makes its features of.

The concepts are those of the "Inner Circle Trader" school, as the package `smartmoneyconcepts`
(Attridge, 2023) writes them down; no paper defines them. That package places a swing at its
extreme and a gap at its middle candle, where neither can be known yet. Here everything takes
effect when it is confirmed, and each event says both times (`research.smc_events`).

Definitions
-----------
Everything exists twice, above the price and below it, as mirror images; only what lies above is
described. All comparisons are made on the bars up to the present slot.

swing high
    A high above those of the `LENGTH` - 1 bars before and not below those of the `LENGTH` bars
    after it, at whose last close it is confirmed. It counts for `REACH` slots.
break of structure, change of character
    A close above the newest confirmed swing high, once for each. It is a change of character if
    the break before it, no more than `TREND_REACH` slots ago, went down, else one of structure.
order block
    A break upwards leaves a bullish block below: the candle with the lowest low between the swing
    high and the breaking bar (the last of equals), unless that bar itself traded below it. It
    ends when a low falls below its low.
fair value gap
    A low above the high of two bars before, with a rising candle in between: a bullish gap below
    the price, confirmed with the third candle. It is mitigated when a low reaches its upper edge.
liquidity
    Stop orders rest above each swing high until a high exceeds it. They form a pool where another
    swing high within `REACH` slots before came within `POOL_TOLERANCE` vol of the same price, and
    none between them was higher than that.
sweep
    A bar whose high exceeds at least one such swing high and whose close does not exceed the
    highest of them: bearish (-1); of lows, bullish (+1).
premium and discount
    The place of the close between the highest of the last two swing highs and this bar's high, and
    the lowest of the last two swing lows and this bar's low: -1 at the bottom, 1 at the top.
displacement
    A candle whose body is at least `DISPLACED` vol and `BODY_SHARE` of its range.

Memory
------
Nothing is anchored and nothing is forgotten at a whim: each thing ends by itself `LIFE` slots
after its extreme at the latest, and what it was made from is bounded in the same way. A feature is
a function of the last `MEMORY` slots, so a stream agrees with the batch wherever it began.

State
-----
Levels of a side are kept times its sign (1 above, -1 below), so that one code serves both and
"beyond" is always "greater". What price did not yet reach is a stack whose newest element is the
nearest (a newer one further away would have been reached on the way), so one comparison a bar
tells whether anything happened.
"""

from __future__ import annotations

import math

from research.kernel_tools import NEVER, RUN_START, Row, slide
from research.kernels import NAN

LENGTH = 5
REACH = 240
TREND_REACH = 336
LIFE = 672
POOL_TOLERANCE = 0.5
DISPLACED, BODY_SHARE, DISPLACEMENT_REACH = 2.0, 0.7, 32
MEMORY = max(LIFE + REACH, 2 * TREND_REACH + REACH) + LENGTH
"""Slots that a feature looks back at most: a block or pool of age `LIFE`, or a break of age
`TREND_REACH` whose kind was decided by one as much older, each made from a swing `REACH` before."""

ABOVE, BELOW = 0, 1
ROOM = 32  # of a stack or ring of things; what does not fit is the oldest
_LAST = ROOM - 1
_BARS = 256  # more than REACH + LENGTH
LAST_BAR = _BARS - 1
_WINDOW = 96

# Layout of a side's floats: swings and the bars' extremes, then four stacks. Of a stack: the level
# of its newest element (infinite when empty), the levels, the other edges.
SWING, PRIOR_SWING, EXTREMES = range(3)
SWING_LEVELS = EXTREMES + _BARS
_STACK_FLOATS = 1 + 2 * ROOM
STOPS = SWING_LEVELS + ROOM
POOLS, GAPS, BLOCKS, _SIDE_FLOATS = (STOPS + (1 + i) * _STACK_FLOATS for i in range(4))
FAR_EDGES = 1 + ROOM  # from a stack's start

# Layout of a side's ints. Of a stack: place of its newest element, how many there are, the slots
# that they are about.
SWING_SLOT, PRIOR_SLOT, UNBROKEN, SWING_HEAD, SWING_SLOTS = range(5)
_STACK_INTS = 2 + ROOM
STOP_INTS = SWING_SLOTS + ROOM
POOL_INTS, GAP_INTS, BLOCK_INTS, _SIDE_INTS = (STOP_INTS + (1 + i) * _STACK_INTS for i in range(4))

# Layout of an instrument's floats.
CLOSE, LOG_CLOSE, OPEN, VOLATILITY, DISPLACEMENT, SQUARES = range(6)
ABOVE_FLOATS = SQUARES + _WINDOW + 2
BELOW_FLOATS = ABOVE_FLOATS + _SIDE_FLOATS
EVENT_PRICES = BELOW_FLOATS + _SIDE_FLOATS
FLOATS_OF = (ABOVE_FLOATS, BELOW_FLOATS)

# Layout of an instrument's ints: the first three are those of `kernel_tools.first_slot`.
BREAK_SLOT, BREAK_DIRECTION, BREAK_IS_CHANGE, SWEEP_SLOT, SWEEP_DIRECTION = range(3, 8)
MITIGATED, DISPLACEMENT_SLOT, EVENT_COUNT, ABOVE_INTS = range(8, 12)
BELOW_INTS = ABOVE_INTS + _SIDE_INTS
EVENTS = BELOW_INTS + _SIDE_INTS
INTS_OF = (ABOVE_INTS, BELOW_INTS)

# What happened in the last slot. A slot can empty the stacks of gaps and blocks of both sides.
EVENT_ROOM = 4 * ROOM + 16
EVENT_KINDS = (
    *("swing", "break_of_structure", "change_of_character", "order_block", "order_block_broken"),
    *("fair_value_gap", "gap_mitigated", "liquidity_pool", "sweep", "displacement"),
)
_SWUNG, _BROKE, _CHANGED, _BLOCK, _BLOCK_BROKEN = range(5)
_GAP, _GAP_MITIGATED, _POOL, _SWEPT, _DISPLACED = range(5, 10)

FLOATS = EVENT_PRICES + 2 * EVENT_ROOM
INTS = EVENTS + 3 * EVENT_ROOM


def emit(f: Row, k: Row, kind: int, direction: int, slot: int, price: float, far: float) -> None:
    """Note an event of the present slot: what, about which earlier slot, at which price."""
    count = k[EVENT_COUNT]
    k[EVENTS + 3 * count], k[EVENTS + 3 * count + 1] = kind, direction
    k[EVENTS + 3 * count + 2] = slot
    f[EVENT_PRICES + 2 * count], f[EVENT_PRICES + 2 * count + 1] = price, far
    k[EVENT_COUNT] = count + 1


def put(f: Row, k: Row, fa: int, ka: int, slot: int, level: float, far: float) -> None:
    """Put an element on a stack, over the oldest if there is no room."""
    head = (k[ka] + 1) & _LAST
    k[ka] = head
    k[ka + 1] = min(k[ka + 1] + 1, ROOM)
    k[ka + 2 + head] = slot
    f[fa] = f[fa + 1 + head] = level
    f[fa + FAR_EDGES + head] = far


def drop(f: Row, k: Row, fa: int, ka: int) -> None:
    """Take the newest element off a stack."""
    head = (k[ka] - 1) & _LAST
    k[ka], k[ka + 1] = head, k[ka + 1] - 1
    f[fa] = f[fa + 1 + head] if k[ka + 1] > 0 else math.inf


def forget(f: Row, k: Row, close: float) -> None:
    """Start from nothing."""
    f[CLOSE] = f[OPEN] = close
    f[LOG_CLOSE] = math.log(close)
    for index in range(_WINDOW + 2):
        f[SQUARES + index] = 0.0
    for index in range(BREAK_SLOT, ABOVE_INTS):
        k[index] = NEVER
    k[BREAK_DIRECTION] = k[SWEEP_DIRECTION] = 0
    for side in range(2):
        fa, ka = FLOATS_OF[side], INTS_OF[side]
        for index in range(SWING_SLOTS + ROOM):
            k[ka + index] = NEVER
        for stack in range(4):
            k[ka + STOP_INTS + stack * _STACK_INTS + 1] = 0
            f[fa + STOPS + stack * _STACK_FLOATS] = math.inf


def reach(f: Row, k: Row, slot: int, side: int, sign: int, extreme: float, close: float) -> None:
    """End what a bar's extreme on one side has reached. Levels are times the side's sign."""
    fa, ka = FLOATS_OF[side], INTS_OF[side]
    fs, ks = fa + GAPS, ka + GAP_INTS
    while extreme >= f[fs]:
        head = k[ks]
        if slot - k[ks + 2 + head] <= LIFE:
            k[MITIGATED] -= sign
            far = f[fs + FAR_EDGES + head]
            emit(f, k, _GAP_MITIGATED, -sign, k[ks + 2 + head], sign * f[fs], sign * far)
        drop(f, k, fs, ks)
    fs, ks = fa + BLOCKS, ka + BLOCK_INTS
    while extreme > f[fs]:
        head = k[ks]
        if slot - k[ks + 2 + head] <= LIFE:
            far = f[fs + FAR_EDGES + head]
            emit(f, k, _BLOCK_BROKEN, -sign, k[ks + 2 + head], sign * far, sign * f[fs])
        drop(f, k, fs, ks)
    if extreme > f[fa + STOPS]:
        sweep(f, k, slot, side, sign, extreme, close)


def sweep(f: Row, k: Row, slot: int, side: int, sign: int, extreme: float, close: float) -> None:
    """Take the stops that an extreme has reached; note a sweep if the close fell back."""
    fs, ks = FLOATS_OF[side] + STOPS, INTS_OF[side] + STOP_INTS
    level, about = -math.inf, NEVER
    while extreme > f[fs]:
        born = k[ks + 2 + k[ks]]
        if slot - born <= LIFE:
            level, about = f[fs], born
        drop(f, k, fs, ks)
    if close <= level:
        k[SWEEP_DIRECTION] = -sign + (k[SWEEP_DIRECTION] if k[SWEEP_SLOT] == slot else 0)
        k[SWEEP_SLOT] = slot
        emit(f, k, _SWEPT, -sign, about, sign * level, NAN)
    fs, ks = FLOATS_OF[side] + POOLS, INTS_OF[side] + POOL_INTS
    while extreme > f[fs]:
        drop(f, k, fs, ks)


def break_structure(f: Row, k: Row, slot: int, side: int, sign: int, close: float) -> None:
    """Note the first close beyond the newest swing of a side, and the block that it leaves."""
    fa, ka = FLOATS_OF[side], INTS_OF[side]
    if k[ka + UNBROKEN] != 1 or close <= f[fa + SWING]:
        return
    k[ka + UNBROKEN] = 0
    born = k[ka + SWING_SLOT]
    if slot - born > REACH:
        return
    known = slot - k[BREAK_SLOT] <= TREND_REACH
    is_change = known and k[BREAK_DIRECTION] == -sign
    k[BREAK_IS_CHANGE] = 1 if is_change else 0
    k[BREAK_SLOT], k[BREAK_DIRECTION] = slot, sign
    emit(f, k, _CHANGED if is_change else _BROKE, sign, born, sign * f[fa + SWING], NAN)
    leave_block(f, k, slot, 1 - side, sign, born)


def leave_block(f: Row, k: Row, slot: int, side: int, direction: int, since: int) -> None:
    """Put down the block of a break on its other side: the extreme candle of the leg before it."""
    fa, ka = FLOATS_OF[side], INTS_OF[side]
    at = fa + EXTREMES
    level, about = -math.inf, NEVER
    for candidate in range(since + 1, slot):
        extreme = f[at + (candidate & LAST_BAR)]
        if extreme >= level:
            level, about = extreme, candidate
    fs, ks = fa + BLOCKS, ka + BLOCK_INTS
    again = k[ks + 1] > 0 and k[ks + 2 + k[ks]] == about
    if about == NEVER or again or f[at + (slot & LAST_BAR)] > level:
        return
    # The other side's extreme of the same candle, in this side's sign.
    other = FLOATS_OF[1 - side] + EXTREMES
    far = -f[other + (about & LAST_BAR)]
    put(f, k, fs, ks, about, level, far)
    emit(f, k, _BLOCK, direction, about, -direction * far, -direction * level)


def find_gap(f: Row, k: Row, slot: int, side: int, sign: int, before: float) -> None:
    """Note a gap between this bar and the one before the last, with a candle to match between.

    A gap belongs to the side on which it lies: `sign` is 1 for a bearish one, above the price.
    """
    fa, ka = FLOATS_OF[side], INTS_OF[side]
    near = f[fa + EXTREMES + (slot & LAST_BAR)]
    other = FLOATS_OF[1 - side] + EXTREMES
    far = -f[other + ((slot - 2) & LAST_BAR)]
    if near < far and sign * (f[OPEN] - before) > 0.0:
        fs, ks = fa + GAPS, ka + GAP_INTS
        put(f, k, fs, ks, slot - 1, near, far)
        emit(f, k, _GAP, -sign, slot - 1, sign * near, sign * far)


def is_swing(f: Row, at: int, slot: int) -> bool:
    """Return whether the extreme `LENGTH` bars ago is confirmed as a swing now."""
    extreme = f[at + ((slot - LENGTH) & LAST_BAR)]
    for back in range(LENGTH - 1, -1, -1):
        if f[at + ((slot - back) & LAST_BAR)] > extreme:
            return False
    for back in range(LENGTH + 1, 2 * LENGTH):  # noqa: SIM110 - numba knows no generators here
        if f[at + ((slot - back) & LAST_BAR)] >= extreme:
            return False
    return True


def confirm(f: Row, k: Row, slot: int, side: int, sign: int) -> None:
    """Take in the swing that this bar confirms, and the pool that it may form."""
    fa, ka = FLOATS_OF[side], INTS_OF[side]
    born = slot - LENGTH
    level = f[fa + EXTREMES + (born & LAST_BAR)]
    emit(f, k, _SWUNG, sign, born, sign * level, NAN)
    put(f, k, fa + STOPS, ka + STOP_INTS, born, level, NAN)
    head = k[ka + SWING_HEAD]
    earlier = equal_level(f, k, fa, ka, head, sign, level, born)
    if earlier != NEVER:
        put(f, k, fa + POOLS, ka + POOL_INTS, born, level, NAN)
        emit(f, k, _POOL, sign, born, sign * level, sign * f[fa + SWING_LEVELS + earlier])
    head = (head + 1) & _LAST
    k[ka + SWING_HEAD] = head
    k[ka + SWING_SLOTS + head] = born
    f[fa + SWING_LEVELS + head] = level
    f[fa + PRIOR_SWING], k[ka + PRIOR_SLOT] = f[fa + SWING], k[ka + SWING_SLOT]
    f[fa + SWING], k[ka + SWING_SLOT] = level, born
    k[ka + UNBROKEN] = 1


def equal_level(
    f: Row, k: Row, fa: int, ka: int, head: int, sign: int, level: float, born: int
) -> int:
    """Return the place of the last swing at the same level, or NEVER if a further one hides it."""
    tolerance = POOL_TOLERANCE * f[VOLATILITY]
    for back in range(ROOM):
        place = (head - back) & _LAST
        slot = k[ka + SWING_SLOTS + place]
        if slot == NEVER or born - slot > REACH:
            return NEVER
        beyond = sign * math.log(f[fa + SWING_LEVELS + place] / level)
        if beyond > tolerance:
            return NEVER
        if beyond >= -tolerance:
            return place
    return NEVER


def displace(f: Row, k: Row, slot: int, bar: Row) -> None:
    """Note a candle that is large, and mostly body."""
    body = math.log(bar[3] / bar[0])
    if abs(body) >= DISPLACED * f[VOLATILITY] > 0.0 and abs(body) >= BODY_SHARE * math.log(
        bar[1] / bar[2]
    ):
        f[DISPLACEMENT] = body / f[VOLATILITY]
        k[DISPLACEMENT_SLOT] = slot
        emit(f, k, _DISPLACED, 1 if body > 0.0 else -1, slot, bar[3], bar[0])


def push(f: Row, k: Row, slot: int, bar: Row) -> None:
    """Take one bar (open, high, low, close) of one slot into an instrument's state."""
    high, low, close = bar[1], bar[2], bar[3]
    if k[RUN_START] == slot:
        forget(f, k, close)
    log_close = math.log(close)
    change = log_close - f[LOG_CLOSE]
    squares = slide(f, SQUARES, _WINDOW, slot % _WINDOW, change * change)
    f[VOLATILITY] = math.sqrt(squares / _WINDOW)
    k[EVENT_COUNT] = k[MITIGATED] = 0
    place = slot & LAST_BAR
    f[ABOVE_FLOATS + EXTREMES + place], f[BELOW_FLOATS + EXTREMES + place] = high, -low
    reach(f, k, slot, ABOVE, 1, high, close)
    reach(f, k, slot, BELOW, -1, -low, -close)
    if close > f[CLOSE]:
        break_structure(f, k, slot, ABOVE, 1, close)
    elif close < f[CLOSE]:
        break_structure(f, k, slot, BELOW, -1, -close)
    seen = slot - k[RUN_START]
    if seen >= 2:
        find_gap(f, k, slot, ABOVE, 1, f[CLOSE])
        find_gap(f, k, slot, BELOW, -1, f[CLOSE])
    if seen >= 2 * LENGTH - 1:
        if is_swing(f, ABOVE_FLOATS + EXTREMES, slot):
            confirm(f, k, slot, ABOVE, 1)
        if is_swing(f, BELOW_FLOATS + EXTREMES, slot):
            confirm(f, k, slot, BELOW, -1)
    if seen >= _WINDOW:
        displace(f, k, slot, bar)
    f[OPEN], f[CLOSE], f[LOG_CLOSE] = bar[0], close, log_close


HELPERS = (
    *(slide, emit, put, drop, forget, sweep, reach, leave_block),
    *(break_structure, find_gap, is_swing, equal_level, confirm, displace, push),
)
"""What `push` calls, callees first, and `push` itself."""
