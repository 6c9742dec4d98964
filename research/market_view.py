"""What a tearsheet shows of the market itself, small enough to be kept with a run.

A run's folder holds no bars. So that its page, and pages that compare it with others, can be drawn
from the folder alone, what they need of the bars is measured once, when the run is written, and
kept beside its tables: thinned prices, buying and holding, the band of the shuffled signal, and the
decay of the information coefficient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from catalog.arrays import BarArrays, Float64Array, Int64Array
from catalog.errors import DataError
from research.estimates import Estimate
from research.metrics import BootstrapConfig
from research.performance import DailyEquity
from research.report import Curve, estimate_of
from research.shuffled_signal import ShuffledTrades, shuffled_paths, shuffled_trades
from research.signal_quality import information_decay
from research.signal_results import InformationRow, SignalConfig

if TYPE_CHECKING:
    import pandas as pd

BAND = (0.05, 0.5, 0.95)
"""Quantiles of the shuffled signal's results that are kept."""
_PRICE, _HELD, _SHUFFLED = "price ", "held ", "shuffled "


@dataclass(frozen=True, slots=True)
class ShuffledBand:
    """What the same trades earned at other times, before costs.

    Parameters
    ----------
    ts : (n_marks,) int64
        UTC nanoseconds.
    gained : (3, n_marks) float64
        Quantiles `BAND` over the rotations of what was earned by then, USDT.
    observed, p : float
        At their own times, and the share of rotations that earned as much
        (`research.shuffled_signal.ShuffledTrades`).
    rotations : int
        How many `p` counts.
    """

    ts: Int64Array
    gained: Float64Array
    observed: float
    p: float
    rotations: int

    @classmethod
    def of(
        cls, positions: pd.DataFrame, bars: Sequence[BarArrays], marks: Int64Array, seed: int
    ) -> Self | None:
        """Move the trades; None where there are none to move."""
        found: ShuffledTrades = shuffled_trades(positions, bars, seed=seed)
        if len(found.drawn) == 0:
            return None
        paths = shuffled_paths(positions, bars, marks, seed=seed)
        gained = np.quantile(paths, BAND, axis=0)
        return cls(marks, gained, found.observed, found.p, len(found.drawn))


@dataclass(frozen=True, slots=True)
class MarketView:
    """What is shown of the market.

    Parameters
    ----------
    prices : mapping of str to Curve
        Closes by instrument, thinned; levels are prices.
    shuffled : ShuffledBand, optional
        None where nothing was traded.
    information : tuple of InformationRow
        Pooled rank information coefficient by horizon.
    horizon_bars : int
        How far the model looks ahead.
    held : mapping of str to DataFrame
        ts_init and equity of what the strategy is held against, by name.
    """

    prices: Mapping[str, Curve]
    shuffled: ShuffledBand | None
    information: tuple[InformationRow, ...]
    horizon_bars: int
    held: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Return the series as one table: series (name), ts_init, value."""
        import pandas as pd

        parts: list[tuple[str, Int64Array, Float64Array]] = [
            (_PRICE + name, curve.ts, curve.level) for name, curve in self.prices.items()
        ]
        parts += [
            (_HELD + name, frame["ts_init"].to_numpy(), frame["equity"].to_numpy())
            for name, frame in self.held.items()
        ]
        if self.shuffled is not None:
            parts += [
                (f"{_SHUFFLED}{share}", self.shuffled.ts, values)
                for share, values in zip(BAND, self.shuffled.gained, strict=True)
            ]
        names = np.repeat([name for name, _, _ in parts], [len(ts) for _, ts, _ in parts])
        return pd.DataFrame(
            {
                "series": pd.Categorical(names, categories=[name for name, _, _ in parts]),
                "ts_init": np.concatenate([ts for _, ts, _ in parts]),
                "value": np.concatenate([values for _, _, values in parts]),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers that are no series, for metrics.json."""
        band = self.shuffled
        return {
            "horizon_bars": self.horizon_bars,
            "information": [
                {"horizon_bars": row.horizon_bars, "n": row.n, "p": row.p, "ic": row.ic.as_dict()}
                for row in self.information
            ],
            "shuffled": None
            if band is None
            else {"observed": band.observed, "p": band.p, "rotations": band.rotations},
        }

    @classmethod
    def read(cls, frame: pd.DataFrame, numbers: Mapping[str, Any]) -> Self:
        """Return what `to_frame` and `to_json` gave.

        Raises
        ------
        DataError
            If a column is missing.
        """
        import pandas as pd

        missing = [name for name in ("series", "ts_init", "value") if name not in frame.columns]
        if missing:
            raise DataError(f"the market's table must have the columns {missing}; run it again")
        series = {
            str(name): (part["ts_init"].to_numpy(np.int64), part["value"].to_numpy(np.float64))
            for name, part in frame.groupby("series", sort=False, observed=True)
        }
        prices, held = (
            {name.removeprefix(kind): found for name, found in series.items() if
             name.startswith(kind)}
            for kind in (_PRICE, _HELD)
        )  # fmt: skip
        told = numbers["shuffled"]
        band = None
        if told is not None:
            rows = [series[f"{_SHUFFLED}{share}"] for share in BAND]
            band = ShuffledBand(rows[0][0], np.array([values for _, values in rows]), **told)
        return cls(
            prices={name: Curve(name, ts, level) for name, (ts, level) in prices.items()},
            shuffled=band,
            information=tuple(_row(row) for row in numbers["information"]),
            horizon_bars=int(numbers["horizon_bars"]),
            held={
                name: pd.DataFrame({"ts_init": ts, "equity": level})
                for name, (ts, level) in held.items()
            },
        )


def _row(found: Mapping[str, Any]) -> InformationRow:
    ic: Estimate = estimate_of(found["ic"])
    p = float("nan") if found["p"] is None else float(found["p"])
    return InformationRow("pooled", int(found["horizon_bars"]), 0, int(found["n"]), ic, p, p)


def thinned_prices(bars: Sequence[BarArrays]) -> dict[str, Curve]:
    """Return closes by instrument, thinned so that no extreme is lost."""
    found = {}
    for one in bars:
        ts, level = Curve(one.instrument_id, one.ts_init, one.close).thinned()
        found[one.instrument_id] = Curve(one.instrument_id, ts, level)
    return found


@dataclass(frozen=True, slots=True)
class ViewedRun:
    """The parts of a run that `market_view` needs.

    Parameters
    ----------
    predictions, positions : DataFrame
        As the run left them.
    daily : DailyEquity
        Of the strategy; its marks are the band's.
    horizon_bars : int
        How far the model looks ahead.
    bootstrap : BootstrapConfig
        Seed and intervals.
    """

    predictions: pd.DataFrame
    positions: pd.DataFrame
    daily: DailyEquity
    horizon_bars: int
    bootstrap: BootstrapConfig


def market_view(
    run: ViewedRun, bars: Sequence[BarArrays], held: Mapping[str, pd.DataFrame]
) -> MarketView:
    """Measure what is shown of the market.

    Parameters
    ----------
    run : ViewedRun
        The run.
    bars : sequence of BarArrays
        Of the replayed span, one entry for each instrument.
    held : mapping of str to DataFrame
        Benchmarks, by name.
    """
    config = SignalConfig(horizon_bars=run.horizon_bars, bootstrap=run.bootstrap)
    names = {one.instrument_id for one in bars}
    own = run.predictions[run.predictions["instrument_id"].isin(names)]
    information = information_decay(own, bars, config)
    return MarketView(
        prices=thinned_prices(bars),
        shuffled=ShuffledBand.of(run.positions, bars, run.daily.ts, run.bootstrap.seed),
        information=tuple(row for row in information if row.n),
        horizon_bars=run.horizon_bars,
        held=held,
    )
