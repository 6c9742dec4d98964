"""The feature table, and its two drivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array, Ohlcv
from catalog.config import Config
from catalog.progress import Progress, no_progress
from research.panel import Panel


class FeatureConfig(Config):
    """Which optional features a run uses.

    Parameters
    ----------
    lead : str, optional
        Instrument whose returns lead the others (BTC); None leaves the lead features out.
    ratios : tuple of (str, str)
        Pairs of instruments whose price ratio is followed.
    funding : bool
        Whether the funding rate is a feature. True demands funding for every instrument.
    instrument_code : bool
        Whether the instrument's code (its place in the profile) is a feature, for pooled models.
    """

    lead: str | None = None
    ratios: tuple[tuple[str, str], ...] = ()
    funding: bool = True
    instrument_code: bool = True


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
        Bars of history after which the value no longer depends on where the history starts.
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
    role: Literal["observed", "known_ahead", "static"]
    unit: str
    description: str


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """Features of a panel; rows are instrument-major and sorted by time within.

    Parameters
    ----------
    names : tuple of str
        Feature names, (n_features,).
    instruments : tuple of str
        Instrument ids by code.
    ts_init : (n_rows,) int64
        When each row is known: its bar's close, UTC nanoseconds.
    instrument : (n_rows,) int64
        Instrument codes.
    values : (n_rows, n_features) float64
        NaN where a feature is not defined (nothing known yet, no variation).
    valid : (n_rows,) bool
        False during warm-up: such a row must not be used.
    """

    names: tuple[str, ...]
    instruments: tuple[str, ...]
    ts_init: Int64Array
    instrument: Int64Array
    values: Float64Array
    valid: NDArray[np.bool_]
