"""A literal form of every feature, with pandas over whole columns and no missing bars."""

from __future__ import annotations

import numpy as np
import pandas as pd

from catalog.arrays import BarArrays
from catalog.timestamps import NS_PER_HOUR
from research.panel import Panel


def reference(bars: BarArrays) -> pd.DataFrame:
    """Return the features which need one instrument only, as the table describes them."""
    close, high, low = (pd.Series(getattr(bars, name)) for name in ("close", "high", "low"))
    first, volume = pd.Series(bars.open), pd.Series(bars.volume)
    log_close = np.log(close)
    change = log_close.diff()
    vol = np.sqrt((change**2).rolling(96).mean())
    table: dict[str, pd.Series] = {}
    for lag in range(4):
        table[f"return_1_lag_{lag}" if lag else "return_1"] = change.shift(lag) / vol
    for bars_back in (4, 16, 96):
        table[f"return_{bars_back}"] = log_close.diff(bars_back) / (vol * np.sqrt(bars_back))
    for span in (20, 50, 200):
        ema = log_close.ewm(span=span, adjust=False).mean()
        table[f"ema_distance_{span}"] = (log_close - ema) / (vol * np.sqrt(span))
        if span != 50:
            table[f"ema_slope_{span}"] = ema.diff(15) / (vol * 4.0)
    window = log_close.rolling(20)
    table["zscore_20"] = (log_close - window.mean()) / window.std(ddof=0)
    before = close.shift(1)
    table["true_range"] = np.log(np.maximum(high, before) / np.minimum(low, before)) / vol
    table["volatility_20"] = np.sqrt((change**2).rolling(20).mean())
    table["volatility_ratio"] = table["volatility_20"] / vol
    traded = volume.rolling(96)
    table["volume_zscore"] = (volume - traded.mean()) / traded.std(ddof=0)
    signed = (np.sign(change) * volume).rolling(20).sum()
    table["signed_volume_20"] = signed / volume.rolling(20).sum()
    gains, losses = change.clip(lower=0).rolling(14).sum(), -change.clip(upper=0).rolling(14).sum()
    table["rsi_14"] = gains / (gains + losses)
    table["close_location"] = (close - low) / (high - low)
    table["body"] = np.log(close / first) / vol
    table["upper_wick"] = np.log(high / np.maximum(first, close)) / vol
    table["lower_wick"] = np.log(np.minimum(first, close) / low) / vol
    stamp = pd.DatetimeIndex(pd.to_datetime(bars.ts_init, utc=True))
    hours = stamp.hour + stamp.minute / 60.0
    for name, turn in (("day", hours / 24.0), ("week", (stamp.day_of_week + hours / 24.0) / 7.0)):
        table[f"{name}_sine"] = pd.Series(np.sin(2.0 * np.pi * turn))
        table[f"{name}_cosine"] = pd.Series(np.cos(2.0 * np.pi * turn))
    return pd.DataFrame(table)


def relations(panel: Panel, own: list[pd.DataFrame], number: int) -> pd.DataFrame:
    """Return the features of one instrument which need the others (no bars missing)."""
    lead, others = own[0], [frame for index, frame in enumerate(own) if index != number]
    table = {f"lead_return_{bars}": lead[f"return_{bars}"] for bars in (1, 4, 16)}
    for bars in (1, 16):
        table[f"relative_return_{bars}"] = own[number][f"return_{bars}"] - lead[f"return_{bars}"]
    for bars in (1, 4):
        table[f"peers_return_{bars}"] = sum(frame[f"return_{bars}"] for frame in others) / 2.0
    for name, a, b in (("btcusdt_ethusdt", 0, 1), ("ethusdt_solusdt", 1, 2)):
        ratio = pd.Series(np.log(panel.bars[a].close / panel.bars[b].close))
        window = ratio.rolling(48)
        table[f"ratio_zscore_{name}"] = (ratio - window.mean()) / window.std(ddof=0)
    series = panel.funding[panel.bars[number].instrument_id]
    bars_ts = panel.bars[number].ts_init
    at = np.searchsorted(series.ts_init, bars_ts, side="right") - 1
    table["funding_rate"] = pd.Series(series.value[at] * 1e4)
    table["funding_age"] = pd.Series((bars_ts - series.ts_init[at]) / (8 * NS_PER_HOUR))
    table["instrument_code"] = pd.Series(np.full(len(bars_ts), float(number)))
    return pd.DataFrame(table)
