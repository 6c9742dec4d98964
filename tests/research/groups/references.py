"""Literal forms of groups of features, with pandas over whole columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from catalog.arrays import BarArrays
from research.features import FeatureMatrix
from research.kernel_tools import MAX_CARRIED
from tests.research.markets import COLUMNS


def on_the_grid(bars: BarArrays) -> pd.DataFrame:
    """Return bars by time of close, with those that are missing written out as carried."""
    frame = pd.DataFrame({name: getattr(bars, name) for name in COLUMNS[1:]}, index=bars.ts_init)
    grid = np.arange(bars.ts_init[0], bars.ts_init[-1] + 1, bars.interval_ns)
    assert np.diff(bars.ts_init).max() <= MAX_CARRIED * bars.interval_ns
    frame = frame.reindex(grid)
    carried = frame["close"].ffill()
    for name in ("open", "high", "low", "close"):
        frame[name] = frame[name].fillna(carried)
    frame["volume"] = frame["volume"].fillna(0.0)
    frame.index = pd.to_datetime(frame.index, utc=True)
    return frame


def at_rows(
    table: pd.DataFrame, matrix: FeatureMatrix, number: int, names: Sequence[str]
) -> NDArray[np.float64]:
    """Return a reference's columns at the valid rows of one instrument."""
    rows = matrix.valid & (matrix.instrument == number)
    return table.loc[pd.to_datetime(matrix.ts_init[rows], utc=True), list(names)].to_numpy()


def higher_interval(frame: pd.DataFrame, interval: str) -> pd.DataFrame:
    """Return the columns of one interval at every base bar, literally: bars by resampling."""
    length = pd.Timedelta(interval)
    higher = frame.resample(length, closed="right", label="right").agg(
        {"open": "first", "high": "max", "low": "min", "close": "last"}
    )
    log_close = np.log(higher["close"])
    squares = np.log(frame["close"]).diff().pow(2)
    variance = squares.resample(length, closed="right", label="right").sum()
    vol = np.sqrt(variance.rolling(16).mean())
    n = min(48, 960 // (length // (frame.index[1] - frame.index[0])) - 1)
    change = log_close.diff()
    gains = change.clip(lower=0).rolling(14).sum()
    table = pd.DataFrame(
        {
            "return_1": change / vol,
            "return_4": log_close.diff(4) / (2 * vol),
            "mean_distance": (log_close - log_close.rolling(n).mean()) / (vol * np.sqrt(n)),
            "rsi_14": gains / change.abs().rolling(14).sum(),
            "close_location": (higher["close"] - higher["low"]) / (higher["high"] - higher["low"]),
            "body": np.log(higher["close"] / higher["open"]) / vol,
            "volatility_ratio": np.sqrt(variance.rolling(4).mean()) / vol,
        }
    )
    # The last one that is complete: the label is the time of the close.
    complete = table.assign(vol=vol, last=log_close).reindex(frame.index, method="ffill")
    complete["unfinished_return"] = (np.log(frame["close"]) - complete["last"]) / complete["vol"]
    complete["phase"] = (frame.index - frame.index.floor(length)) / length
    return complete


def cross_section(frames: list[pd.DataFrame], number: int) -> pd.DataFrame:
    """Return the cross-asset columns of one instrument, the first of `frames` being the lead."""
    change = pd.concat([np.log(frame["close"]).diff() for frame in frames], axis=1, keys=range(3))
    vol = np.sqrt(change.pow(2).rolling(96).mean())
    own, lead = change[number], change[0]

    def correlation(one: pd.Series, other: pd.Series) -> pd.Series:
        scale = one.pow(2).rolling(96).sum() * other.pow(2).rolling(96).sum()
        return (one * other).rolling(96).sum() / np.sqrt(scale)

    table = {"correlation": correlation(own, lead), "lead_lag": correlation(own, lead.shift(1))}
    beta = (own * lead).rolling(96).sum() / lead.pow(2).rolling(96).sum()
    table["beta"] = beta
    for bars in (1, 16):
        residual = own.rolling(bars).sum() - beta * lead.rolling(bars).sum()
        table[f"residual_{bars}"] = residual / (vol[number] * np.sqrt(bars))
        scaled = change.rolling(bars).sum() / (vol * np.sqrt(bars))
        table[f"dispersion_{bars}"] = scaled.std(axis=1, ddof=0)
        table[f"rank_{bars}"] = (scaled.rank(axis=1)[number] - 1.0) / 2.0
    for lag in (1, 2, 3):
        table[f"lead_return_1_lag_{lag}"] = lead.shift(lag) / vol[0]
    scores = []
    for other, frame in enumerate(frames):
        window = frame["volume"].rolling(96)
        if other != number:
            scores.append((frame["volume"] - window.mean()) / window.std(ddof=0))
    table["peers_volume_zscore"] = sum(scores) / 2.0
    return pd.DataFrame(table)
