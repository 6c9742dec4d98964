"""What a study runs: the walk-forwards that show what each expert, fusion and input is worth.

For every horizon one walk-forward with all experts and all fusions on the same rows, and for
every input one more in which that input alone is switched: off where the configuration has it, on
where it has not. News is studied in a span of its own, because dense news ends before the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field, field_validator, model_validator

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.timestamps import format_time
from research.comparisons import ComparisonConfig
from research.features import feature_table
from research.fitting import FALLBACKS
from research.models.registry import EXPERT_KINDS
from research.models.sentiment import SentimentConfig
from research.settings import WalkForwardConfig
from research.splits import Time, ValidationConfig
from research.study_inputs import (
    INPUTS,
    NEWS,
    Stored,
    Switch,
    judging,
    left_out_of,
    switches_of,
    with_features,
)


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

    @model_validator(mode="after")
    def _check_span(self) -> NewsSpan:
        if self.end <= self.test_start:
            raise ValueError(
                f"end must be after test_start ({format_time(self.test_start)}), was "
                f"{format_time(self.end)}"
            )
        return self

    @property
    def year(self) -> str:
        """Year in which its test begins; it is part of the names of walk-forwards."""
        return format_time(self.test_start)[:4]


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
        *("regime", "mirror", NEWS),
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
            raise ValueError(
                f"inputs must be different ones of {', '.join(INPUTS)}, were {', '.join(names)}"
            )
        return names

    @field_validator("input_experts")
    @classmethod
    def _check_input_experts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError(f"input experts must be different, were {', '.join(names)}")
        return names

    @field_validator("horizons")
    @classmethod
    def _check_horizons(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(horizons)) != len(horizons) or min(horizons) < 1:
            raise ValueError(
                "horizons must be different numbers of bars, at least 1, were "
                f"{', '.join(map(str, horizons))}"
            )
        return horizons


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
        If `input_experts` are none of the experts, or none that could judge; or an expert needs
        an input that the features have not.
    """
    experts = tuple(base.experts.chosen())
    _check_experts(base, study, experts)
    switches = switches_of(base, market, study)
    left_out = left_out_of(base, market, study, stored)
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


def _check_experts(base: WalkForwardConfig, study: StudyConfig, experts: tuple[str, ...]) -> None:
    """Refuse, before hours of fitting, what would end them."""
    names = {feature.name for feature in feature_table(base.features)}
    for expert in experts:
        lacking = [name for name in EXPERT_KINDS[expert].inputs if name not in names]
        if lacking:
            raise ConfigError(
                f"features must have {', '.join(lacking)} for the expert {expert}, had not; leave "
                "the expert out or give the profile its input (features.news for sentiment)"
            )
    if not study.inputs:
        return
    judges = study.input_experts
    if not set(judges) <= set(experts):
        raise ConfigError(
            f"experts that judge inputs must be among the experts {', '.join(experts)}, were "
            f"{', '.join(judges)}; choose them there or study no inputs"
        )
    if not judging(judges):
        raise ConfigError(
            "one of the experts that judge inputs must be fitted on all features, "
            f"{', '.join(judges)} are not; add another or study no inputs"
        )


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


def _add_inputs(
    whole: WalkForwardConfig,
    switches: Mapping[str, Switch],
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
        columns = _columns(_touched(switch, start, config, judges))
        if len(judges) > 1 and (set(judges) == set(every) or compared != main.name):
            columns["prob_up"] = "prob_up"
        pairs.append(
            InputPair(name, horizon, with_it, without, switch.is_on(_only(whole, judges)), columns)
        )


def _touched(
    switch: Switch, start: WalkForwardConfig, config: WalkForwardConfig, judges: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the judges that an input makes a difference to; what is theirs alone may be on."""
    if switch.part == "features":
        return judging(judges)
    one, other = config.experts.chosen(), start.experts.chosen()
    return tuple(name for name in judging(judges) if one[name] != other[name])


def _columns(experts: tuple[str, ...]) -> dict[str, str]:
    return {f"expert_{one}": f"expert_{one}" for one in experts}


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
    blind = start.experts.model_copy(update={"sentiment": None})
    without = with_features(start.model_copy(update={"experts": blind}), {"news": ()})
    sentiment = whole.experts.sentiment or SentimentConfig()
    experts = blind.model_copy(update={"sentiment": sentiment})
    informed = with_features(start.model_copy(update={"experts": experts}), {"news": news.series})
    subsets = _subsets(tuple(experts.chosen()), None)
    plain, full = (f"h{horizon}-{news.year}-{one}-news" for one in ("without", "with"))
    variants.append(Variant(plain, horizon, without, news.end))
    variants.append(Variant(full, horizon, informed, news.end, True, subsets))
    columns = _columns(judging(study.input_experts))
    pairs.append(InputPair(NEWS, horizon, full, plain, bool(whole.features.news), columns))
