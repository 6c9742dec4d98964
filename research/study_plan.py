"""What a study runs: the walk-forwards that show what each expert, fusion and input is worth.

For every horizon one walk-forward with all experts and all fusions on the same rows, and for
every input one more in which that input alone is switched: off where the configuration has it, on
where it has not. News is studied in a span of its own, because dense news ends before the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, field_validator

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.timestamps import format_time
from research.comparisons import ComparisonConfig
from research.feature_config import FeatureConfig
from research.features import feature_table
from research.fitting import FALLBACKS
from research.settings import WalkForwardConfig
from research.splits import Time, ValidationConfig

type Stored = Collection[tuple[str, str]]
"""Kind and name of every series in a catalog, such as ``("index", "fear_greed")``."""

NEWS = "news"
MIRROR = "mirror"


class NewsSpan(Config):
    """Where news is studied.

    Parameters
    ----------
    series : tuple of str
        News series of the catalog.
    test_start, end : time
        The tested span ``(test_start, end]``; the data begins where the study's does.
    n_folds : int
        Tested blocks.
    """

    series: tuple[str, ...] = ("bitcoin_news_2021_2023",)
    test_start: Time = Field(default="2023-07-01", validate_default=True)
    end: Time = Field(default="2023-12-19", validate_default=True)
    n_folds: int = Field(default=3, ge=1, le=100)


class StudyConfig(Config):
    """What is studied.

    Parameters
    ----------
    horizons : tuple of int
        Horizons of the label in bars; the first is the one that verdicts are given for.
    inputs : tuple of str
        Inputs that are switched, one at a time; see `INPUTS`.
    input_experts : tuple of str
        Experts that inputs are judged by; with all that there are, the fusion is judged, too.
    everything : bool
        Whether inputs are switched off from all of them together instead of switched from the
        configuration as it is.
    timeframes, onchain, dvol, fear_greed
        What the inputs ``timeframes`` and ``slow`` are where the configuration has none.
    news : NewsSpan
        Where news is studied.
    comparison : ComparisonConfig
        Paired tests and how sure they must be.
    """

    horizons: tuple[int, ...] = Field(default=(1, 4, 16), min_length=1)
    inputs: tuple[str, ...] = (
        *("smc", "timeframes", "cross", "relations", "slow", "funding", "funding_terms"),
        *("regime", MIRROR, NEWS),
    )
    input_experts: tuple[str, ...] = Field(default=("lightgbm",), min_length=1)
    everything: bool = False
    timeframes: tuple[str, ...] = ("1h", "4h")
    onchain: str | None = "coinmetrics.btc"
    dvol: tuple[str, ...] = ("dvol.btc", "dvol.eth")
    fear_greed: str | None = "fear_greed"
    news: NewsSpan = NewsSpan()
    comparison: ComparisonConfig = ComparisonConfig()

    @field_validator("inputs")
    @classmethod
    def _check_inputs(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in INPUTS]
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"inputs must be different ones of {', '.join(INPUTS)}, were {names}")
        return names

    @field_validator("horizons")
    @classmethod
    def _check_horizons(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(horizons)) != len(horizons) or min(horizons) < 1:
            raise ValueError(f"horizons must be different numbers of bars, were {horizons}")
        return horizons


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
class StudyMarket:
    """What a study looks at: instruments, interval and the span ``(start, end]``, UTC ns."""

    instruments: tuple[str, ...]
    interval: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One walk-forward of a study.

    Parameters
    ----------
    name : str
        Such as ``h1`` or ``h1-without-smc``; a folder's name.
    horizon : int
        In bars.
    config : WalkForwardConfig
        Everything that decides it.
    end : int
        Data to this time, UTC nanoseconds.
    alternatives : bool
        Whether all fusions are fitted.
    subsets : dict of tuple of str
        Fusions of some of the experts, by name.
    """

    name: str
    horizon: int
    config: WalkForwardConfig
    end: int
    alternatives: bool = False
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputPair:
    """Two walk-forwards that differ in one input.

    Parameters
    ----------
    name : str
        Of the input.
    horizon : int
        In bars.
    with_it, without : str
        Names of the variants.
    is_on : bool
        Whether the configuration under study has it.
    columns : dict of str
        Column of the variant with it by column of the one without: what is compared.
    """

    name: str
    horizon: int
    with_it: str
    without: str
    is_on: bool
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """All walk-forwards, the pairs that are compared, and what cannot be studied and why."""

    variants: tuple[Variant, ...]
    pairs: tuple[InputPair, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Switch:
    """An input's settings where it is on and where it is off."""

    on: Mapping[str, Any]
    off: Mapping[str, Any]
    part: Literal["features", "experts"] = "features"

    def is_on(self, config: WalkForwardConfig) -> bool:
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


def plan_study(
    base: WalkForwardConfig,
    market: StudyMarket,
    study: StudyConfig,
    stored: Stored,
    default_experts: tuple[str, ...] | None = None,
) -> StudyPlan:
    """Return what a study runs.

    Parameters
    ----------
    base : WalkForwardConfig
        The configuration under study; its experts are those of the tables.
    market : StudyMarket
        Data.
    study : StudyConfig
        Settings.
    stored : collection of (kind, name)
        What the catalog holds; inputs that it cannot feed are left out, and the plan says so.
    default_experts : tuple of str, optional
        Experts of the default model, where the study looks at others as well: their fusion is
        then measured, too.

    Raises
    ------
    ConfigError
        If `input_experts` are none of the experts.
    """
    experts = tuple(base.experts.chosen())
    absent = [name for name in study.input_experts if name not in experts]
    if absent:
        raise ConfigError(
            f"input experts must be among the experts {', '.join(experts)}, were "
            f"{', '.join(study.input_experts)}"
        )
    switches = _switches(base, market, study)
    left_out = _left_out(base, market, study, stored)
    inputs = [name for name in study.inputs if name not in left_out]
    variants: list[Variant] = []
    pairs: list[InputPair] = []
    for horizon in study.horizons:
        whole = _at_horizon(base, horizon)
        subsets = _subsets(experts, default_experts)
        end = market.end
        variants.append(Variant(f"h{horizon}", horizon, whole, end, True, subsets))
        tested = {name: switches[name] for name in inputs if name != NEWS}
        _add_inputs(whole, tested, study, variants, pairs)
        if NEWS in inputs:
            _add_news(whole, study, variants, pairs)
    return StudyPlan(tuple(variants), tuple(pairs), left_out)


def _at_horizon(config: WalkForwardConfig, horizon: int) -> WalkForwardConfig:
    return config.model_copy(
        update={"label": config.label.model_copy(update={"horizon_bars": horizon})}
    )


def _subsets(
    experts: tuple[str, ...], default: tuple[str, ...] | None
) -> dict[str, tuple[str, ...]]:
    """Return the fusions that leave one out, take a stand-in along, or are the default's."""
    fused = tuple(name for name in experts if name not in FALLBACKS)
    found = {}
    if len(fused) > 1:
        found = {f"without_{one}": tuple(n for n in fused if n != one) for one in fused}
    if fused:
        found |= {f"with_{one}": (*fused, one) for one in experts if one not in fused}
    if default is not None:
        chosen = tuple(name for name in fused if name in default)
        if chosen and chosen != fused:
            found["of_default"] = chosen
    return found


def _switches(
    base: WalkForwardConfig, market: StudyMarket, study: StudyConfig
) -> dict[str, _Switch]:
    lead = base.features.lead or market.instruments[0]
    slow_on = {"onchain": study.onchain, "dvol": study.dvol, "fear_greed": study.fear_greed}
    slow_off = {"onchain": None, "dvol": (), "fear_greed": None}
    across = {"lead": lead, "peers": True, "ratios": base.features.ratios, "cross": True}
    flags = ("smc", "funding_terms", "regime", "flow", "path")
    return {
        **{name: _Switch({name: True}, {name: False}) for name in flags},
        "timeframes": _Switch({"timeframes": study.timeframes}, {"timeframes": ()}),
        "cross": _Switch(across, {"lead": None, "peers": False, "ratios": (), "cross": False}),
        "relations": _Switch({"cross": True}, {"cross": False}),
        "slow": _Switch(slow_on, slow_off),
        **{name: _Switch({name: slow_on[name]}, {name: slow_off[name]}) for name in slow_on},
        "funding": _Switch(
            {"funding": True, "funding_terms": True}, {"funding": False, "funding_terms": False}
        ),
        MIRROR: _Switch({MIRROR: True}, {MIRROR: False}, "experts"),
    }


def _left_out(
    base: WalkForwardConfig, market: StudyMarket, study: StudyConfig, stored: Stored
) -> dict[str, str]:
    """Return why some of the wanted inputs cannot be studied, by input."""
    chain = [] if study.onchain is None else [("onchain", study.onchain)]
    volatility = [("index", name) for name in study.dvol]
    greed = [] if study.fear_greed is None else [("index", study.fear_greed)]
    wanted: dict[str, list[tuple[str, str]]] = {
        "slow": [*chain, *volatility, *greed],
        "onchain": chain,
        "dvol": volatility,
        "fear_greed": greed,
        NEWS: [(NEWS, name) for name in study.news.series],
    }
    found: dict[str, str] = {}
    for name, series in wanted.items():
        absent = [one for kind, one in series if (kind, one) not in stored]
        if absent or not series:
            found[name] = f"the catalog has no {', '.join(absent)}" if series else "none is named"
    if len(market.instruments) < 2:
        found |= dict.fromkeys(("cross", "relations"), "there is one instrument")
    elif base.features.lead is None:
        found["relations"] = "there is no lead to relate to"
    if not base.features.funding:
        found["funding_terms"] = "there is no funding rate"
    if not any(hasattr(getattr(base.experts, name), MIRROR) for name in study.input_experts):
        found[MIRROR] = "no expert that inputs are judged by has it"
    if NEWS not in found and not market.start < study.news.test_start < study.news.end:
        found[NEWS] = f"the data begins {format_time(market.start)}, after the tested news"
    elif NEWS not in found and study.news.end > market.end:
        found[NEWS] = f"the data ends {format_time(market.end)}, before the tested news"
    return {name: reason for name, reason in found.items() if name in study.inputs}


def _add_inputs(
    whole: WalkForwardConfig,
    switches: Mapping[str, _Switch],
    study: StudyConfig,
    variants: list[Variant],
    pairs: list[InputPair],
) -> None:
    """Add a walk-forward for each input, and the one that it is compared with if need be."""
    main = variants[-1]
    horizon, end = main.horizon, main.end
    every, judges = tuple(whole.experts.chosen()), study.input_experts
    start = _only(whole, judges)
    compared = main.name
    if study.everything:
        for switch in switches.values():
            start = switch.turned(start, on=True)
        if start != _only(whole, judges):
            compared = f"{main.name}-everything"
            variants.append(Variant(compared, horizon, start, end))
    for name, switch in switches.items():
        is_on = switch.is_on(start)
        config = switch.turned(start, on=not is_on)
        variant = f"{main.name}-{'without' if is_on else 'with'}-{name}"
        variants.append(Variant(variant, horizon, config, end))
        with_it, without = (compared, variant) if is_on else (variant, compared)
        columns = {f"expert_{one}": f"expert_{one}" for one in judges}
        if len(judges) > 1 and (set(judges) == set(every) or compared != main.name):
            columns["prob_up"] = "prob_up"
        pairs.append(
            InputPair(name, horizon, with_it, without, switch.is_on(_only(whole, judges)), columns)
        )


def _only(config: WalkForwardConfig, experts: tuple[str, ...]) -> WalkForwardConfig:
    others = {name: None for name in config.experts.chosen() if name not in experts}
    return config.model_copy(update={"experts": config.experts.model_copy(update=others)})


def _add_news(
    whole: WalkForwardConfig,
    study: StudyConfig,
    variants: list[Variant],
    pairs: list[InputPair],
) -> None:
    """Add the two walk-forwards of the news: with it and the sentiment expert, and without."""
    news, horizon = study.news, whole.label.horizon_bars
    validation = ValidationConfig.model_validate(
        whole.validation.model_dump()
        | {"test_start": news.test_start, "test_end": news.end, "n_folds": news.n_folds}
    )
    start = _only(whole, study.input_experts).model_copy(update={"validation": validation})
    without = with_features(start, {"news": ()})
    informed = with_features(start, {"news": news.series})
    experts = informed.experts.model_validate(informed.experts.model_dump() | {"sentiment": {}})
    informed = informed.model_copy(update={"experts": experts})
    names = tuple(experts.chosen())
    subsets = _subsets(names, None)
    plain, full = f"h{horizon}-2023-without-news", f"h{horizon}-2023-with-news"
    variants.append(Variant(plain, horizon, without, news.end))
    variants.append(Variant(full, horizon, informed, news.end, True, subsets))
    columns = {f"expert_{one}": f"expert_{one}" for one in study.input_experts}
    is_on = bool(whole.features.news)
    pairs.append(InputPair(NEWS, horizon, full, plain, is_on, columns))
