"""The events of market structure with both of their times, for charts and for the curious.

They come out of the functions that make the features (`research.groups.smc_structure`), which note
what they do; nothing is found a second time here. `ts_event` is when the thing that an event is
about took place (a swing's extreme, a gap's middle candle, a block's candle), `ts_init` is the
close of the bar that confirmed it. A chart that draws an event at its `ts_event` shows what nobody
could see then.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from catalog.arrays import BarArrays
from research.groups import smc_structure as structure
from research.kernel_tools import NEVER, carried, first_slot

COLUMNS = ("kind", "direction", "ts_event", "ts_init", "price", "far_price")

type Event = tuple[str, int, int, int, float, float]


def structure_events(bars: BarArrays) -> pd.DataFrame:
    """Return all that happened in the market structure of one instrument, by `ts_init`.

    Parameters
    ----------
    bars : BarArrays
        Bars on their grid; missing ones count as standing still, as in the features.

    Returns
    -------
    DataFrame of (n_events, 6)
        kind : str
            One of `research.groups.smc_structure.EVENT_KINDS`.
        direction : int
            1 or -1: of a swing or a pool whether it lies above or below; of a break, a block, a
            gap, a sweep or a displacement where it points to. `gap_mitigated` and
            `order_block_broken` have that of their gap or block.
        ts_event, ts_init : int
            UTC nanoseconds; see the module.
        price : float
            Level; of a zone its edge on the price's side, of a displacement its close.
        far_price : float
            Other edge of a zone, the earlier level of a pool, a displacement's open, else NaN.
    """
    return pd.DataFrame.from_records(list(_events(bars)), columns=list(COLUMNS)).astype(
        {"direction": np.int64, "ts_event": np.int64, "ts_init": np.int64}
    )


def _events(bars: BarArrays) -> Iterator[Event]:
    """Drive the kernel's `push` as `smc.step` does, and read what it noted after each slot."""
    f, k = [0.0] * structure.FLOATS, [NEVER] * structure.INTS
    table = [[0.0] * 5, [0.0] * 5]
    columns = (bars.ts_init, bars.open, bars.high, bars.low, bars.close, bars.volume)
    for ts_init, *numbers in zip(*(column.tolist() for column in columns), strict=True):
        slot = ts_init // bars.interval_ns
        for now in range(first_slot(k, slot, 1), slot + 1):
            is_real = now == slot
            structure.push(f, k, now, numbers if is_real else carried(table, f[structure.CLOSE]))
            # What a gap in the data brought about is known when the next bar comes.
            yield from _noted(f, k, ts_init, bars.interval_ns)


def _noted(f: list[float], k: list[int], ts_init: int, interval_ns: int) -> Iterator[Event]:
    """Return the events of the last slot."""
    for number in range(k[structure.EVENT_COUNT]):
        at = structure.EVENTS + 3 * number
        kind, direction, slot = k[at : at + 3]
        at = structure.EVENT_PRICES + 2 * number
        price, far = f[at : at + 2]
        name = structure.EVENT_KINDS[kind]
        yield name, direction, slot * interval_ns, ts_init, price, far
