"""What a prediction is, and who makes one: the words that research and strategies share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from catalog.arrays import Ohlcv

type ExpertShare = tuple[str, float, float]
"""One expert's part: its name, its calibrated probability of a rise (NaN where it gave none) and
its weight in the fusion (0 where it was left out)."""
type InputAge = tuple[str, float]
"""A slow input's name, and the bars since its value became known (NaN: nothing is known yet)."""


class Prediction(NamedTuple):
    """The probability that one instrument's price rises, and what is known about it.

    A named tuple because a replay makes one for each bar: a frozen dataclass of as many fields
    takes five times as long.

    Parameters
    ----------
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    ts_init : int
        Close of the bar that the prediction was made from; usable from then on. UTC nanoseconds.
    prob_up : float
        Calibrated probability in (0, 1) that the close `horizon_bars` later is higher.
    horizon_bars : int
        How many bars ahead it looks.
    model_version : str
        Which model made it.
    degraded : bool
        Whether an input was missing, late or replaced.
    degraded_reason : str
        What was wrong; empty if nothing was.
    mu : float
        Expected log return over the horizon, a fraction; NaN if unknown.
    sigma : float
        Scale of that return (aleatoric: what remains however well the model is known), a
        fraction; NaN if unknown.
    epistemic : float
        Standard deviation of `prob_up` over the members of an ensemble; NaN if unknown.
    volatility : float
        Root mean square of the one-bar log returns of the last 96 bars, a fraction; NaN if
        unknown.
    prob_low, prob_high : float
        Ends of the 95 % interval of what happens where `prob_up` is said, as held-out rows show
        it; NaN if unknown.
    entry_threshold : float
        Least probability of a side that paid for its costs on held-out rows; NaN if none did, or
        none was looked for.
    side : {-1, 0, 1}, optional
        Short, flat or long by the predictor's own threshold; flat also where its inputs are too
        old to say anything. None: it has no threshold, and the side is that of `prob_up` from
        one half.
    regime : {"trend", "neutral", "mean_reverting", ""}
        State of the market; empty if unknown.
    experts : tuple of ExpertShare
        Who contributed, in the fusion's order; empty where there is one model.
    input_ages : tuple of InputAge
        Ages of the slow inputs.
    """

    instrument_id: str
    ts_init: int
    prob_up: float
    horizon_bars: int
    model_version: str
    degraded: bool = False
    degraded_reason: str = ""
    mu: float = math.nan
    sigma: float = math.nan
    epistemic: float = math.nan
    volatility: float = math.nan
    prob_low: float = math.nan
    prob_high: float = math.nan
    entry_threshold: float = math.nan
    side: int | None = None
    regime: str = ""
    experts: tuple[ExpertShare, ...] = ()
    input_ages: tuple[InputAge, ...] = ()

    @property
    def direction(self) -> int:
        """The side in numbers: `side`, or that of `prob_up` from one half."""
        if self.side is None:
            return (self.prob_up > 0.5) - (self.prob_up < 0.5)
        return self.side


@dataclass(frozen=True, slots=True)
class PredictorSpec:
    """What a predictor predicts and what it needs: its identity, apart from any data.

    Parameters
    ----------
    instruments : tuple of str
        In the profile's order, which is the order of the predictions of one time.
    interval_ns : int
        Length of a bar in nanoseconds.
    horizon_bars : int
        How many bars ahead the predictions look.
    warmup_bars : int
        Bars that must be fed before the first prediction can be expected.
    model_version : str
        Written on every prediction.
    uses_funding : bool
        Whether `update_funding` must be fed.
    spec_hash : str
        SHA-256 over `parts`: equal when two specifications ask the same question.
    parts : tuple of (str, str)
        Name and hash of each part of the question (features, label, model, ...), so that a
        refusal can say which one differs.
    series : tuple of str
        Slow series that `update_series` must be fed, such as
        ``onchain.coinmetrics.btc.AdrActCnt``, ``index.dvol.btc``, ``news.cryptonews_2021_2022``.
    uses_flow, uses_minutes : bool
        Whether `update_flow` and `update_minute` must be fed, for every instrument.
    """

    instruments: tuple[str, ...]
    interval_ns: int
    horizon_bars: int
    warmup_bars: int
    model_version: str
    uses_funding: bool
    spec_hash: str
    parts: tuple[tuple[str, str], ...] = ()
    series: tuple[str, ...] = ()
    uses_flow: bool = False
    uses_minutes: bool = False


class Predictor(Protocol):
    """Turns the bars of a time into predictions. The only thing that strategies know of research.

    Feed everything in the order of `ts_init`; at equal stamps bars come last.
    """

    @property
    def spec(self) -> PredictorSpec:
        """What this predictor predicts and needs."""

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        """Take a funding rate (a fraction), known since `ts_init`."""

    def update_series(self, name: str, value: float, ts_init: int, extra: float = math.nan) -> None:
        """Take a record of a slow series, known since `ts_init`.

        Parameters
        ----------
        name : str
            One of the specification's `series`.
        value : float
            In the series' unit; for news the score in [-1, 1], NaN when not scored.
        ts_init : int
            UTC nanoseconds.
        extra : float
            For news the headline's novelty in [0, 1]; NaN for other series.
        """

    def update_flow(self, instrument_id: str, values: tuple[float, ...], ts_init: int) -> None:
        """Take how the volume of the bar that closed at `ts_init` came about.

        `values` are those of `catalog.types.BarFlow`: traded value in quote units, number of
        trades, volume bought by takers in base units, the same in quote units.
        """

    def update_minute(self, instrument_id: str, ts_init: int, bar: Ohlcv) -> None:
        """Take the one-minute bar that closed at `ts_init`."""

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        """Take the bars that closed at `ts_init`, by instrument, and return the predictions.

        One for each instrument that has a bar here and enough history, in the order of the
        specification's instruments.
        """
