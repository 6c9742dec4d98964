"""The smart money features again, each read off its definition, with nothing carried along.

Slow on purpose: every row looks at all bars before it and throws away what is too old.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from catalog.arrays import BarArrays
from catalog.arrays import Float64Array as Floats
from research.groups.smc_structure import (
    BODY_SHARE,
    DISPLACED,
    DISPLACEMENT_REACH,
    LENGTH,
    LIFE,
    POOL_TOLERANCE,
    REACH,
    TREND_REACH,
)


@dataclass
class Side:
    """What lies on one side of the price; `x` is the bars' extreme times the side's sign."""

    sign: int
    x: Floats
    other: Floats  # the opposite extreme times the same sign: lows, seen from above
    swings: list[int] = field(default_factory=list)
    pools: list[int] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)  # candle, breaking bar
    gaps: list[int] = field(default_factory=list)  # middle candle

    def level(self, at: int) -> float:
        return float(self.x[at])


def reference(bars: BarArrays) -> pd.DataFrame:
    """Return the 16 features of every bar of an unbroken series, (n_bars, 16)."""
    close, first = bars.close, bars.open
    change = np.concatenate([[0.0], np.diff(np.log(close))])
    vol = np.sqrt(pd.Series(change**2).rolling(96).mean().to_numpy())
    above = Side(1, bars.high, bars.low)
    below = Side(-1, -bars.low, -bars.high)
    for side in (above, below):
        side.swings = [at for at in range(len(close)) if _is_swing(side.x, at)]
        side.pools = [at for at in side.swings if _is_pool(side, at, vol)]
    breaks = _breaks(above, below, close)
    _find_gaps(above, below, first, close)
    sweeps = _sweeps(above, below, close)
    body = np.log(close / first)
    big = (np.abs(body) >= DISPLACED * vol) & (
        np.abs(body) >= BODY_SHARE * np.log(bars.high / bars.low)
    )
    displaced = np.flatnonzero(big)
    rows = []
    for t in range(len(close)):
        row = {}
        for side, name in ((above, "above"), (below, "below")):
            row |= _distances(side, name, t, float(close[t]), float(vol[t]))
        row |= _last_break(breaks, t) | _last_sweep(sweeps, t)
        row["gap_mitigated"] = np.sign(_mitigated(below, t) - _mitigated(above, t))
        row["premium"] = _premium(above, below, t, float(close[t]))
        recent = displaced[(displaced <= t) & (displaced >= t - DISPLACEMENT_REACH)]
        row["displacement"] = body[recent[-1]] / vol[recent[-1]] if len(recent) else 0.0
        rows.append({f"smc_{key}": value for key, value in row.items()})
    return pd.DataFrame(rows)


def _is_swing(x: Floats, at: int) -> bool:
    if at < LENGTH - 1 or at + LENGTH >= len(x):
        return False
    before, after = x[at - LENGTH + 1 : at], x[at + 1 : at + LENGTH + 1]
    return bool(x[at] > before.max() and x[at] >= after.max())


def _is_pool(side: Side, at: int, vol: Floats) -> bool:
    tolerance = POOL_TOLERANCE * vol[at + LENGTH]
    for other in reversed([s for s in side.swings if at - REACH <= s < at]):
        beyond = side.sign * math.log(side.level(other) / side.level(at))
        if abs(beyond) <= tolerance:
            return True
        if beyond > tolerance:
            return False
    return False


def _breaks(above: Side, below: Side, close: Floats) -> list[tuple[int, int, bool]]:
    """Return bar, direction and whether it changed the character; note the blocks left behind."""
    found: list[tuple[int, int, bool]] = []
    for t in range(len(close)):
        for side, opposite in ((above, below), (below, above)):
            known = [at for at in side.swings if at + LENGTH < t]
            if not known or t - known[-1] > REACH:
                continue
            at, c = known[-1], side.sign * close
            if not (c[t] > side.level(at) >= c[at + 1 : t].max()):
                continue
            before = found[-1] if found and t - found[-1][0] <= TREND_REACH else None
            found.append((t, side.sign, before is not None and before[1] == -side.sign))
            leg = opposite.x[at + 1 : t]
            candle = at + 1 + int(np.flatnonzero(leg == leg.max())[-1])
            if opposite.x[t] <= opposite.level(candle):
                opposite.blocks.append((candle, t))
    return found


def _find_gaps(above: Side, below: Side, first: Floats, close: Floats) -> None:
    for middle in range(1, len(close) - 1):
        for side in (above, below):
            # Above lies what fell: a high under the low of two bars before.
            if (
                side.x[middle + 1] < side.other[middle - 1]
                and side.sign * (first[middle] - close[middle]) > 0.0
            ):
                side.gaps.append(middle)


def _sweeps(above: Side, below: Side, close: Floats) -> dict[int, int]:
    found: dict[int, int] = {}
    for t in range(len(close)):
        for side in (above, below):
            taken = [
                side.level(at)
                for at in side.swings
                if at + LENGTH < t <= at + LIFE
                and side.x[at + 1 : t].max() <= side.level(at) < side.x[t]
            ]
            if taken and side.sign * close[t] <= max(taken):
                found[t] = found.get(t, 0) - side.sign
    return found


def _distances(side: Side, name: str, t: int, close: float, vol: float) -> dict[str, float]:
    def distance(levels: list[float]) -> float:
        if not levels:
            return math.nan
        return math.log(side.sign * min(levels) / close) / vol

    swing = [at for at in side.swings if at + LENGTH <= t <= at + REACH]
    high_or_low = "high" if side.sign == 1 else "low"
    pools = [
        side.level(at)
        for at in side.pools
        if at + LENGTH <= t <= at + LIFE and side.x[at + 1 : t + 1].max() <= side.level(at)
    ]
    gaps = [
        side.level(middle + 1)
        for middle in side.gaps
        if middle + 1 <= t <= middle + LIFE
        and side.x[middle + 2 : t + 1].max(initial=-math.inf) < side.level(middle + 1)
    ]
    blocks = [
        (side.level(candle), candle)
        for candle, broken in side.blocks
        if broken <= t <= candle + LIFE and side.x[broken : t + 1].max() <= side.level(candle)
    ]
    near = [float(side.other[min(blocks, key=lambda b: (b[0], -b[1]))[1]])] if blocks else []
    return {
        f"swing_{high_or_low}_distance": distance([side.level(at) for at in swing[-1:]]),
        f"liquidity_{name}_distance": distance(pools),
        f"gap_{name}_distance": distance(gaps),
        f"block_{name}_distance": distance(near),
    }


def _mitigated(side: Side, t: int) -> int:
    return sum(
        middle + 1 < t <= middle + LIFE
        and side.x[middle + 2 : t].max(initial=-math.inf) < side.level(middle + 1) <= side.x[t]
        for middle in side.gaps
    )


def _last_break(breaks: list[tuple[int, int, bool]], t: int) -> dict[str, float]:
    past = [one for one in breaks if one[0] <= t <= one[0] + TREND_REACH]
    if not past:
        return {"break_of_structure": 0.0, "change_of_character": 0.0, "break_age": math.nan}
    at, direction, is_change = past[-1]
    return {
        "break_of_structure": 0.0 if is_change else float(direction),
        "change_of_character": float(direction) if is_change else 0.0,
        "break_age": math.log(1.0 + t - at),
    }


def _last_sweep(sweeps: dict[int, int], t: int) -> dict[str, float]:
    past = [at for at in sweeps if at <= t <= at + REACH]
    if not past:
        return {"sweep": 0.0, "sweep_age": math.nan}
    return {"sweep": float(sweeps[max(past)]), "sweep_age": math.log(1.0 + t - max(past))}


def _premium(above: Side, below: Side, t: int, close: float) -> float:
    edges = []
    for side in (above, below):
        known = [at for at in side.swings if at + LENGTH <= t]
        if not known or t - known[-1] > REACH:
            return math.nan
        levels = [side.level(at) for at in known[-2:] if t - at <= REACH]
        edges.append(side.sign * max([*levels, side.level(t)]))
    top, bottom = (math.log(edge) for edge in edges)
    return (2.0 * math.log(close) - top - bottom) / (top - bottom) if top > bottom else math.nan
