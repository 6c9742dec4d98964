"""As-of joins and rolling statistics as pandas makes them."""

from __future__ import annotations

import pandas as pd

from catalog.arrays import Float64Array, Int64Array
from research.events import EventArrays


def as_of(ts: Int64Array, events: EventArrays, value: Float64Array) -> pd.DataFrame:
    """Return the last record known at each time, as pandas joins it."""
    left = pd.DataFrame({"ts": ts})
    right = pd.DataFrame({"ts": events.ts_init, "known_at": events.ts_init, "value": value})
    return pd.merge_asof(left, right, on="ts")


def rolling_zscore(values: Float64Array, window: int) -> Float64Array:
    rolling = pd.Series(values).rolling(window)
    return ((values - rolling.mean()) / rolling.std(ddof=0)).to_numpy()
