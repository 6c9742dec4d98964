"""Custom data types that the engine carries, stores and replays beside its own.

Every field states its unit. Each record has `ts_event` (when it happened) and `ts_init` (when it
could be known), both in UTC nanoseconds and first in the constructor, because
`customdataclass` adds them there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, dataclass_transform

from nautilus_trader.model import register_custom_data_class

if TYPE_CHECKING:
    # The engine's decorator has no annotations; this is what it does.
    @dataclass_transform()
    def customdataclass[T]() -> Callable[[type[T]], type[T]]:
        """Give a class of fields what the engine asks of custom data."""
else:
    from nautilus_trader.model.custom import customdataclass


@customdataclass()
class BarFlow:
    """How a bar's volume came about: the columns of the exchange's archive that a bar leaves out.

    Parameters
    ----------
    bar_type : str
        The bar that it belongs to, such as ``BTCUSDT-PERP.BINANCE-15-MINUTE-LAST-EXTERNAL``.
    quote_volume : float
        Traded value, quote units (USDT).
    trade_count : int
        Number of trades.
    taker_buy_volume : float
        Volume of trades whose buyer took liquidity, base units.
    taker_buy_quote_volume : float
        The same, quote units (USDT).
    """

    bar_type: str = ""
    quote_volume: float = math.nan
    trade_count: int = 0
    taker_buy_volume: float = math.nan
    taker_buy_quote_volume: float = math.nan


@customdataclass()
class OnchainMetrics:
    """One metric of one asset for one day.

    `ts_event` is the end of the day described, `ts_init` the moment its vendor published it.

    Parameters
    ----------
    asset : str
        Such as ``btc``.
    metric : str
        The vendor's name of the metric, such as ``AdrActCnt``.
    value : float
        The value, in `unit`.
    unit : str
        Unit of `value`, such as ``count``, ``USD``, ``ratio``.
    """

    asset: str = ""
    metric: str = ""
    value: float = math.nan
    unit: str = ""


@customdataclass()
class IndexLevel:
    """The level of an index over an interval (Deribit DVOL, Fear & Greed).

    Parameters
    ----------
    name : str
        Such as ``dvol.btc``.
    open, high, low, close : float
        Levels in `unit`; an index published as one number has it in all four.
    unit : str
        Such as ``percent per year`` or ``points 0-100``.
    """

    name: str = ""
    open: float = math.nan
    high: float = math.nan
    low: float = math.nan
    close: float = math.nan
    unit: str = ""


@customdataclass()
class NewsSentiment:
    """A headline and, where a model or a person scored it, its sentiment.

    Parameters
    ----------
    asset : str
        What it is about, such as ``btc``.
    source : str
        The outlet.
    headline : str
        The text.
    score : float
        Sentiment from -1 (bad for the price) to 1 (good), without unit; NaN when not scored.
    ts_published : int
        When the outlet says that it published it, UTC nanoseconds (`ts_init` may be later).
    """

    asset: str = ""
    source: str = ""
    headline: str = ""
    score: float = math.nan
    ts_published: int = 0


@customdataclass()
class NewsArrival:
    """What a headline says to a predictor, made from a `NewsSentiment` as it arrives; not stored.

    The novelty depends on the headlines before it, so that whoever feeds them works it out once,
    with `research.novelty`, and strategies need no memory of texts.

    Parameters
    ----------
    series : str
        The catalog's series, such as ``cryptonews_2021_2022``.
    score : float
        Sentiment from -1 (bad for the price) to 1 (good), without unit; NaN when not scored.
    novelty : float
        How new the headline is, from 0 (seen before) to 1, without unit; NaN when unknown.
    """

    series: str = ""
    score: float = math.nan
    novelty: float = math.nan


@customdataclass()
class MinuteBar:
    """A bar of one minute as an input of features.

    Apart from the engine's own bars, because those would be traded on: its replay fills resting
    orders from the shortest bars that it is given.

    Parameters
    ----------
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    open, high, low, close : float
        Prices, quote units.
    volume : float
        Traded volume, base units.
    """

    instrument_id: str = ""
    open: float = math.nan
    high: float = math.nan
    low: float = math.nan
    close: float = math.nan
    volume: float = math.nan


class _JsonText:
    """A text field that is written when it is first read.

    Custom data hold scalars, so that what has parts travels as text. Writing it takes longer than
    all else that is done with a prediction, and a replay, which makes millions, reads none.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, record: object | None, owner: type) -> str:
        if record is None:
            return ""
        value: str | Iterable[tuple[Any, ...]] = record.__dict__[self._name]
        if not isinstance(value, str):
            value = _written(value)
            record.__dict__[self._name] = value
        return value

    def __set__(self, record: object, value: str | Iterable[tuple[Any, ...]]) -> None:
        record.__dict__[self._name] = value


def _json_text() -> Any:
    return _JsonText()


def _written(parts: Iterable[tuple[Any, ...]]) -> str:
    """Return (name, number, ...) of each part as a JSON object; nothing for no parts."""
    found = {}
    for name, *numbers in parts:
        # JSON has no NaN: what `json` writes for it no other language reads.
        known = [number if math.isfinite(number) else None for number in numbers]
        found[name] = known if len(known) > 1 else known[0]
    return json.dumps(found) if found else ""


@customdataclass()
class FusionPrediction:
    """A calibrated prediction for one instrument, usable from `ts_init` on.

    Parameters
    ----------
    instrument_id : str
        Such as ``BTCUSDT-PERP.BINANCE``.
    prob_up : float
        Probability that the label is 1, from 0 to 1.
    mu : float
        Expected log return over the horizon, a fraction; NaN if unknown.
    sigma : float
        Scale of that return, a fraction; NaN if unknown.
    epistemic : float
        Standard deviation of `prob_up` over an ensemble's members; NaN if unknown.
    volatility : float
        Root mean square of the one-bar log returns of the last 96 bars, a fraction; NaN if
        unknown.
    prob_low, prob_high : float
        Ends of the 95 % interval of what happens where `prob_up` is said; NaN if unknown.
    entry_threshold : float
        Least probability of a side that paid for its costs on held-out rows; NaN if unknown.
    confidence : float
        ``|2 * prob_up - 1|``, from 0 to 1.
    side : int
        1 long, -1 short, 0 flat, by the predictor's threshold; flat also where its inputs are too
        old. By which side of one half `prob_up` lies on, where the predictor has no threshold.
    regime : str
        ``trend``, ``neutral``, ``mean_reverting``, or empty if unknown.
    experts : str
        JSON object from each expert's name to its probability (null where it gave none) and its
        weight, such as ``{"lightgbm": [0.53, 0.6]}``; empty where there are none. Given as such a
        text, or as (name, probability, weight) of each.
    horizon_bars : int
        How many bars ahead the label looks.
    model_version : str
        Version of the bundle that made it.
    input_ages : str
        JSON object from each slow input's name to the bars since its value became known (null
        where nothing is known yet); empty where there are none. Given as such a text, or as
        (name, bars) of each.
    degraded : bool
        Whether some input was missing or late.
    degraded_reason : str
        Which, in words; empty when not degraded.
    """

    instrument_id: str = ""
    prob_up: float = math.nan
    mu: float = math.nan
    sigma: float = math.nan
    epistemic: float = math.nan
    volatility: float = math.nan
    prob_low: float = math.nan
    prob_high: float = math.nan
    entry_threshold: float = math.nan
    confidence: float = math.nan
    side: int = 0
    regime: str = ""
    experts: str = _json_text()
    horizon_bars: int = 0
    model_version: str = ""
    input_ages: str = _json_text()
    degraded: bool = False
    degraded_reason: str = ""


TYPES = (
    BarFlow,
    OnchainMetrics,
    IndexLevel,
    NewsSentiment,
    NewsArrival,
    MinuteBar,
    FusionPrediction,
)
_registered: set[str] = set()


def register_types() -> None:
    """Make the types known to the engine; a second call does nothing.

    The engine refuses to carry, store or read a custom type before this.
    """
    for custom_type in TYPES:
        if custom_type.__name__ not in _registered:
            register_custom_data_class(custom_type)
            _registered.add(custom_type.__name__)
