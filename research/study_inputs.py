"""The inputs that a study can switch: what they are, what they need, and who judges them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from catalog.errors import ConfigError
from catalog.instruments import bar_type
from catalog.timestamps import format_time, interval_ns
from research.feature_config import FeatureConfig
from research.features import feature_table
from research.fitting import FALLBACKS
from research.groups import timeframes
from research.models.registry import EXPERT_KINDS

if TYPE_CHECKING:
    from research.settings import WalkForwardConfig
    from research.study_plan import StudyConfig, StudyMarket

type Stored = Collection[tuple[str, str]]
"""Kind and name of every series in a catalog, such as ``("index", "fear_greed")``."""
type _Wanted = list[tuple[str, str]]

NEWS = "news"
MIRROR = "mirror"


INPUTS: Mapping[str, str] = {
    "smc": "smart money concepts",
    "timeframes": "higher timeframes",
    "cross": "everything about other instruments: lead, peers, ratios, relations",
    "relations": "correlation, beta and dispersion across the set",
    "slow": "on-chain series, implied volatility, Fear & Greed",
    "onchain": "on-chain series",
    "dvol": "implied volatility",
    "fear_greed": "Fear & Greed",
    "funding": "the funding rate and its course",
    "funding_terms": "the course of the funding rate",
    "regime": "the regime and its statistics",
    "flow": "order flow",
    "path": "the path inside the bar",
    MIRROR: "learning from the mirrored market, too",
    NEWS: "news sentiment",
}
"""What can be switched, and what it is."""


@dataclass(frozen=True, slots=True)
class Switch:
    """An input's settings where it is on and where it is off."""

    on: Mapping[str, Any]
    off: Mapping[str, Any]
    part: Literal["features", "experts"] = "features"

    def is_on(self, config: WalkForwardConfig) -> bool:
        """Return whether a configuration has any of the input."""
        return any(
            getattr(one, key) != value
            for one in self._parts(config)
            for key, value in self.off.items()
        )

    def _parts(self, config: WalkForwardConfig) -> list[Any]:
        if self.part == "features":
            return [config.features]
        return [one for one in config.experts.chosen().values() if hasattr(one, MIRROR)]

    def turned(self, config: WalkForwardConfig, *, on: bool) -> WalkForwardConfig:
        """Return the configuration with the input on, as far as it is off, or off."""
        if self.part == "experts":
            mirrored = {
                name: one.model_copy(update={MIRROR: on})
                for name, one in config.experts.chosen().items()
                if hasattr(one, MIRROR)
            }
            return config.model_copy(update={"experts": config.experts.model_copy(update=mirrored)})
        now = config.features
        lacking = {k: v for k, v in self.on.items() if getattr(now, k) == self.off[k]}
        return with_features(config, lacking if on else self.off)


def with_features(config: WalkForwardConfig, changes: Mapping[str, Any]) -> WalkForwardConfig:
    """Return a configuration with other features, checked; limits of inputs that go, go too."""
    features = FeatureConfig.model_validate(config.features.model_dump() | dict(changes))
    ages = {feature.name for feature in feature_table(features)}
    limits = {k: v for k, v in config.staleness.flat_bars.items() if f"{k}_age" in ages}
    staleness = config.staleness.model_copy(update={"flat_bars": limits})
    return config.model_copy(update={"features": features, "staleness": staleness})


def judging(experts: tuple[str, ...]) -> tuple[str, ...]:
    """Return those that look at all features: a rule, or news alone, says nothing of an input."""
    return tuple(one for one in experts if one not in FALLBACKS and not EXPERT_KINDS[one].inputs)


def switches_of(
    base: WalkForwardConfig, market: StudyMarket, study: StudyConfig
) -> dict[str, Switch]:
    """Return how each input but the news is switched, by name."""
    lead = base.features.lead or market.instruments[0]
    slow_on = {"onchain": study.onchain, "dvol": study.dvol, "fear_greed": study.fear_greed}
    slow_off = {"onchain": None, "dvol": (), "fear_greed": None}
    across = {"lead": lead, "peers": True, "ratios": base.features.ratios, "cross": True}
    flags = ("smc", "funding_terms", "regime", "flow", "path")
    return {
        **{name: Switch({name: True}, {name: False}) for name in flags},
        "timeframes": Switch({"timeframes": study.timeframes}, {"timeframes": ()}),
        "cross": Switch(across, {"lead": None, "peers": False, "ratios": (), "cross": False}),
        "relations": Switch({"cross": True}, {"cross": False}),
        "slow": Switch(slow_on, slow_off),
        **{name: Switch({name: slow_on[name]}, {name: slow_off[name]}) for name in slow_on},
        "funding": Switch(
            {"funding": True, "funding_terms": True}, {"funding": False, "funding_terms": False}
        ),
        MIRROR: Switch({MIRROR: True}, {MIRROR: False}, "experts"),
    }


def left_out_of(
    base: WalkForwardConfig, market: StudyMarket, study: StudyConfig, stored: Stored
) -> dict[str, str]:
    """Return why some of the wanted inputs cannot be studied, by input."""
    found: dict[str, str] = {}
    for name, series in _series_of(base, market, study).items():
        absent = [one for one in series if one not in stored]
        if absent or not series:
            kinds = ", ".join(f"{one} ({kind})" for kind, one in absent)
            found[name] = f"the catalog has no {kinds}" if series else "none is named"
    if not base.features.timeframes and (reason := _unfit_timeframes(market, study)):
        found["timeframes"] = reason
    if len(market.instruments) < 2:
        found |= dict.fromkeys(("cross", "relations"), "there is one instrument")
    elif base.features.lead is None:
        found["relations"] = "there is no lead to relate to"
    if not base.features.funding:
        found["funding_terms"] = "there is no funding rate"
    if not _mirrored(base, study.input_experts):
        found[MIRROR] = "no expert that inputs are judged by has it"
    if NEWS not in found and not market.start < study.news.test_start:
        found[NEWS] = f"the data begins {format_time(market.start)}, after the tested news"
    elif NEWS not in found and study.news.end > market.end:
        found[NEWS] = f"the data ends {format_time(market.end)}, before the tested news"
    return {name: reason for name, reason in found.items() if name in study.inputs}


def _series_of(
    base: WalkForwardConfig, market: StudyMarket, study: StudyConfig
) -> dict[str, _Wanted]:
    """Return what each input that needs series of its own needs: the configuration's, if any."""
    features, instruments = base.features, market.instruments
    onchain = features.onchain or study.onchain
    greed = features.fear_greed or study.fear_greed
    chain: _Wanted = [] if onchain is None else [("onchain", onchain)]
    feared: _Wanted = [] if greed is None else [("index", greed)]
    volatility: _Wanted = [("index", name) for name in features.dvol or study.dvol]
    rates: _Wanted = [("funding", name) for name in instruments]
    return {
        "slow": [*chain, *volatility, *feared],
        "onchain": chain,
        "dvol": volatility,
        "fear_greed": feared,
        "funding": rates,
        "funding_terms": rates,
        "flow": [("bar_flow", bar_type(name, market.interval)) for name in instruments],
        "path": [("bars", bar_type(name, "1m")) for name in instruments],
        NEWS: [(NEWS, name) for name in study.news.series],
    }


def _unfit_timeframes(market: StudyMarket, study: StudyConfig) -> str:
    """Return why the higher timeframes cannot be looked at; empty if they can."""
    if not study.timeframes:
        return "none is named"
    try:
        timeframes.settings(market.instruments, interval_ns(market.interval), study.timeframes)
    except ConfigError as error:
        return str(error)
    return ""


def _mirrored(config: WalkForwardConfig, experts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the experts that can learn from the mirrored market."""
    return tuple(name for name in experts if hasattr(getattr(config.experts, name), MIRROR))
