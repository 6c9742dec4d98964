"""Which features a run uses: the part of a profile that decides its columns."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import model_validator

from catalog.config import Config
from catalog.timestamps import INTERVALS
from research.feature_table import ratio_feature


class FeatureConfig(Config):
    """Which optional features a run uses.

    Parameters
    ----------
    lead : str, optional
        Instrument whose returns lead the others (BTC); None leaves its features out.
    peers : bool
        Whether the mean return of the other instruments is a feature; NaN where there are none.
    ratios : tuple of (str, str)
        Pairs of instruments, the price of the first in units of the second being a feature.
    funding : bool
        Whether the funding rate is a feature. True demands funding for every instrument.
    instrument_code : bool
        Whether the place of the instrument in the profile is a feature, for pooled models.
    smc : bool
        Whether smart money concepts are features.
    timeframes : tuple of str
        Intervals of higher bars that are looked at, multiples of the base bar, such as ``4h``.
    cross : bool
        Whether rolling relations to the lead and the dispersion of the set are; needs `lead`.
    regime : bool
        Whether the regime and the statistics that it is read from are features.
    flow : bool
        Whether order flow is; demands bar flow for every instrument.
    path : bool
        Whether the path inside the bar is; demands 1-minute bars for every instrument.
    onchain : str, optional
        On-chain series of the catalog, such as ``coinmetrics.btc``.
    dvol : tuple of str
        Implied volatility indices of the catalog, such as ``dvol.btc``.
    fear_greed : str, optional
        The Fear & Greed index of the catalog, such as ``fear_greed``.
    news : tuple of str
        News series of the catalog, all of which feed one set of features.
    funding_terms : bool
        Whether the course of the funding rate is; needs `funding`.
    """

    lead: str | None = None
    peers: bool = False
    ratios: tuple[tuple[str, str], ...] = ()
    funding: bool = True
    instrument_code: bool = True
    smc: bool = False
    timeframes: tuple[str, ...] = ()
    cross: bool = False
    regime: bool = False
    flow: bool = False
    path: bool = False
    onchain: str | None = None
    dvol: tuple[str, ...] = ()
    fear_greed: str | None = None
    news: tuple[str, ...] = ()
    funding_terms: bool = False

    @model_validator(mode="after")
    def _check_ratios(self) -> FeatureConfig:
        names = [ratio_feature(first, second).name for first, second in self.ratios]
        if len(set(names)) != len(names):
            raise ValueError(f"ratios must be distinct pairs of symbols, were {self.ratios}")
        for first, second in self.ratios:
            if first == second:
                raise ValueError(f"a ratio must name two instruments, was {first} twice")
        return self

    @model_validator(mode="after")
    def _check_groups(self) -> FeatureConfig:
        unknown = [name for name in self.timeframes if name not in INTERVALS]
        if unknown:
            raise ValueError(
                f"timeframes must be of {', '.join(INTERVALS)}, were {', '.join(self.timeframes)}"
            )
        _check_distinct("timeframes", self.timeframes)
        _check_distinct("news", self.news)
        # Columns are named after what follows the last dot: dvol.btc gives dvol_btc_level.
        _check_distinct("dvol", [name.rsplit(".", 1)[-1] for name in self.dvol])
        if self.cross and self.lead is None:
            raise ValueError("cross must have a lead to relate to, was None; set features.lead")
        if self.funding_terms and not self.funding:
            raise ValueError("funding_terms must have funding: true beside it, was false")
        return self


def _check_distinct(what: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names) or not all(names):
        raise ValueError(f"{what} must be distinct names, were {', '.join(names)}")
