"""The features that exist. Their order is that of the columns which `research.kernels` writes.

Prices enter as logarithms and returns are divided by their own volatility, so that a row of one
instrument means the same as a row of another and a model can be fitted to all of them together.
``vol`` is the root mean square of the last 96 one-bar log returns. A feature is NaN where it is
not defined: without variation in its window, or with nothing known about what it looks at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from research import kernel_tools, kernels

type Role = Literal["observed", "known_ahead", "static"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One row of the feature table.

    Parameters
    ----------
    name : str
        Column name.
    inputs : tuple of str
        What it reads, such as ``close`` or ``lead.close``.
    warmup_bars : int
        Bars of unbroken history after which the value no longer depends on where it starts.
    role : {"observed", "known_ahead", "static"}
        Whether the value could be known before its time.
    unit : str
        Unit of the value.
    description : str
        What it says.
    """

    name: str
    inputs: tuple[str, ...]
    warmup_bars: int
    role: Role
    unit: str
    description: str


def _seen(name: str, inputs: str, warmup_bars: int, unit: str, description: str) -> Feature:
    return Feature(name, tuple(inputs.split()), warmup_bars, "observed", unit, description)


def _clock(name: str, description: str) -> Feature:
    return Feature(name, ("ts_init",), 0, "known_ahead", "1", description)


_EMA = "distance of the log close from its EMA of {n} bars, per vol of {n} bars"
_EMA_BARS = kernels.EMA_ANCHOR - 1
# No row is valid before this, so that the largest warm-up of a table is what a run needs.
_LONGEST = kernels.WARMUP_SLOTS + kernel_tools.MAX_CARRIED

BASE_FEATURES: tuple[Feature, ...] = (
    _seen("return_1", "close", 97, "vol", "log return of the last bar"),
    _seen("return_1_lag_1", "close", 97, "vol", "log return of the bar before the last"),
    _seen("return_1_lag_2", "close", 97, "vol", "log return two bars before the last"),
    _seen("return_1_lag_3", "close", 97, "vol", "log return three bars before the last"),
    _seen("return_4", "close", 97, "vol", "log return over 4 bars, per vol of 4 bars"),
    _seen("return_16", "close", 97, "vol", "log return over 16 bars, per vol of 16 bars"),
    _seen("return_96", "close", 97, "vol", "log return over 96 bars, per vol of 96 bars"),
    _seen("ema_distance_20", "close", max(97, 80 + _EMA_BARS), "vol", _EMA.format(n=20)),
    _seen("ema_distance_50", "close", 200 + _EMA_BARS, "vol", _EMA.format(n=50)),
    _seen("ema_distance_200", "close", _LONGEST, "vol", _EMA.format(n=200)),
    _seen("ema_slope_20", "close", 95 + _EMA_BARS, "vol", "change of the EMA of 20 in 15 bars"),
    _seen("ema_slope_200", "close", _LONGEST, "vol", "change of the EMA of 200 in 15 bars"),
    _seen("zscore_20", "close", 97, "standard deviation", "log close against its last 20"),
    _seen("true_range", "high low close", 97, "vol", "log true range of the last bar"),
    _seen("volatility_20", "close", 97, "fraction per bar", "root mean square return, 20 bars"),
    _seen("volatility_ratio", "close", 97, "1", "volatility of 20 bars by that of 96"),
    _seen("volume_zscore", "volume", 97, "standard deviation", "volume against its last 96 bars"),
    _seen("signed_volume_20", "close volume", 97, "1", "volume of rises less falls, of 20 bars"),
    _seen("rsi_14", "close", 97, "fraction", "gains by gains and losses, 14 bars (Cutler's RSI)"),
    _seen("close_location", "high low close", 97, "fraction", "place of the close in the bar"),
    _seen("body", "open close", 97, "vol", "log close by open"),
    _seen("upper_wick", "open high close", 97, "vol", "log high by the higher of open and close"),
    _seen("lower_wick", "open low close", 97, "vol", "log of the lower of open and close by low"),
    _clock("day_sine", "sine of the time of day (UTC) at the bar's close"),
    _clock("day_cosine", "cosine of the time of day (UTC) at the bar's close"),
    _clock("week_sine", "sine of the time since Monday 00:00 UTC at the bar's close"),
    _clock("week_cosine", "cosine of the time since Monday 00:00 UTC at the bar's close"),
)

FUNDING_FEATURES: tuple[Feature, ...] = (
    _seen("funding_rate", "funding", 0, "bps", "last settled rate, NaN once 16 hours old"),
    _seen("funding_age", "funding", 0, "8 hours", "time since that rate became known"),
)

_CROSS = kernels.CROSS_SLOTS + kernel_tools.MAX_CARRIED
LEAD_FEATURES: tuple[Feature, ...] = (
    _seen("lead_return_1", "lead.close", _CROSS, "vol", "the lead's return_1"),
    _seen("lead_return_4", "lead.close", _CROSS, "vol", "the lead's return_4"),
    _seen("lead_return_16", "lead.close", _CROSS, "vol", "the lead's return_16"),
    _seen("relative_return_1", "close lead.close", _CROSS, "vol", "return_1 less the lead's"),
    _seen("relative_return_16", "close lead.close", _CROSS, "vol", "return_16 less the lead's"),
)
PEER_FEATURES: tuple[Feature, ...] = (
    _seen("peers_return_1", "peers.close", _CROSS, "vol", "mean return_1 of the others"),
    _seen("peers_return_4", "peers.close", _CROSS, "vol", "mean return_4 of the others"),
)


def ratio_feature(first: str, second: str) -> Feature:
    """Return the feature which follows the price of one instrument in units of another."""
    name = f"ratio_zscore_{_symbol(first)}_{_symbol(second)}"
    description = f"log price of {first} by {second} against its last {kernels.RATIO_WINDOW} bars"
    inputs = f"{first}.close {second}.close"
    return _seen(name, inputs, _CROSS, "standard deviation", description)


CODE_FEATURE = Feature(
    "instrument_code", ("instrument",), 0, "static", "1", "place of the instrument in the profile"
)


def _symbol(instrument_id: str) -> str:
    return instrument_id.split(".")[0].split("-")[0].lower()
