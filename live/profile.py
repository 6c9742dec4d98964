"""One file that describes one run: data, features, label, model, folds, strategy, execution.

A profile is YAML, checked key by key; the profiles that come with LeviBot lie in `live/profiles`
and are found by name. `Profile.content_hash()` is stored with every result.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.strict_yaml import explain, parse_yaml, read_settings
from catalog.timestamps import format_time, interval_ns
from research.calibration import CalibrationConfig
from research.circuit_breaker import BreakerConfig
from research.consistency import faults_of
from research.features import FeatureConfig
from research.fusion import FusionConfig
from research.guidance import ThresholdConfig
from research.labels import LabelConfig
from research.metrics import BootstrapConfig
from research.models.registry import ExpertsConfig
from research.settings import WalkForwardConfig
from research.splits import Time, ValidationConfig
from research.staleness import StalenessConfig
from strategies.execution import ExecutionConfig
from strategies.policy_config import FusionPolicy
from strategies.risk_policy import load_risk_policy
from strategies.settings_check import check_settings

PROFILE_FOLDER = Path(__file__).parent / "profiles"


class DataConfig(Config):
    """Which stored data a run looks at.

    Parameters
    ----------
    instruments : tuple of str
        Instrument ids, in the order of their codes.
    interval : str
        Bar interval, such as ``15m``.
    start, end : time
        The span ``(start, end]`` on ts_init. It is never moved to what the catalog holds: a
        missing part is an error.
    """

    instruments: tuple[str, ...] = Field(min_length=1)
    interval: str
    start: Time
    end: Time

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            interval_ns(self.interval)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if self.end <= self.start:
            raise ValueError(
                f"end must be after start ({format_time(self.start)}), was {format_time(self.end)}"
            )
        if len(set(self.instruments)) != len(self.instruments):
            raise ValueError(f"instruments must be distinct, were {', '.join(self.instruments)}")
        return self


class LiveConfig(Config):
    """What only a live engine asks for; no result of research depends on it.

    Parameters
    ----------
    claim : bool
        Whether positions that the account holds in traded instruments, and that are not in the
        engine's books, become its own. Otherwise they are a person's and left alone.
    """

    claim: bool = False


class _Faults(ValueError):
    """Several faults between the parts of a profile."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Profile(Config):
    """Everything that one run depends on, apart from the data itself.

    What the settings alone decide is decided here: a profile whose parts cannot work with one
    another is none, whatever the data may be.

    Parameters
    ----------
    name, description : str
        For people.
    seed : int
        Seed of every random draw in the run: model, bootstrap.
    data, features, label, validation, strategy, execution, bootstrap
        The configuration of each part; see the classes. `seed` replaces the seeds within.
    experts, calibration, fusion, staleness, thresholds, holdout_frac, half_life_days
        Who predicts, and how their answers become one probability; see
        `research.training.WalkForwardConfig`.
    breaker : BreakerConfig
        When an expert that fails while a bundle is served is left out, and for how long. No part
        of the model.
    threads : int
        Steps of fits that run beside one another; no result depends on it.
    live : LiveConfig
        What only a live engine asks for; no part of the content hash.
    """

    UNHASHED: ClassVar[frozenset[str]] = frozenset({"live"})

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    seed: int = Field(default=7, ge=0, le=2**31 - 1)
    data: DataConfig
    features: FeatureConfig
    label: LabelConfig
    experts: ExpertsConfig = ExpertsConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    fusion: FusionConfig = FusionConfig()
    staleness: StalenessConfig = StalenessConfig()
    breaker: BreakerConfig = BreakerConfig()
    thresholds: ThresholdConfig = ThresholdConfig()
    holdout_frac: float = Field(default=0.12, gt=0.0, le=0.5)
    half_life_days: float | None = Field(default=None, ge=1.0)
    threads: int = Field(default=2, ge=1, le=256)
    validation: ValidationConfig
    strategy: FusionPolicy
    execution: ExecutionConfig
    bootstrap: BootstrapConfig = BootstrapConfig()
    live: LiveConfig = LiveConfig()

    @model_validator(mode="after")
    def _spread_seed(self) -> Self:
        """Let the one seed reach every part, so that what is stored is what is used."""
        object.__setattr__(self, "experts", _seeded(self.experts, self.seed))
        object.__setattr__(self, "bootstrap", _seeded(self.bootstrap, self.seed))
        return self

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        length = interval_ns(self.data.interval)
        found = faults_of(self.walk_forward_config(), self.data.instruments, length)
        faults = (
            *found,
            *self._span_faults(),
            *self._threshold_faults(),
            *self._trading_faults(length),
        )
        if faults:
            raise _Faults(faults)
        return self

    def _span_faults(self) -> Iterator[str]:
        data, test_start = self.data, self.validation.test_start
        if not data.start < test_start < data.end:
            yield (
                f"validation.test_start must lie within the data, {format_time(data.start)} to "
                f"{format_time(data.end)}, was {format_time(test_start)}"
            )

    def _threshold_faults(self) -> Iterator[str]:
        """Yield a threshold of the strategy below which the predictor is flat."""
        entry, side = self.strategy.entry_threshold, self.fusion.side_threshold
        if entry != "swept" and entry < side:
            yield (
                f"strategy.entry_threshold must be at least fusion.side_threshold ({side:g}), "
                f"below which predictions are flat, was {entry:g}"
            )

    def _trading_faults(self, length: int) -> Iterator[str]:
        """Yield what a replay would refuse, before hours are spent on its predictions."""
        try:
            check_settings(self.strategy, self.execution, self.data.instruments, length)
        except ConfigError as error:
            yield str(error)

    def walk_forward_config(self) -> WalkForwardConfig:
        """Return the research part of the profile.

        Where the strategy wants its threshold swept, the sweep pays what the profile says that
        trading costs, unless `thresholds.cost_bps` says otherwise.
        """
        parts = {name: getattr(self, name) for name in WalkForwardConfig.model_fields}
        if self.strategy.entry_threshold == "swept" and self.thresholds.cost_bps is None:
            execution = self.execution
            cost = 2.0 * (execution.taker_fee_bps + execution.base_slippage_bps)
            parts["thresholds"] = self.thresholds.model_copy(update={"cost_bps": max(cost, 0.0)})
        return WalkForwardConfig(**parts)


def _seeded[Settings: Config](config: Settings, seed: int) -> Settings:
    """Return settings whose seeds, at any depth, are all this one."""
    changed: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            changed[name] = _seeded(value, seed)
        elif name == "seed":
            changed[name] = seed
    return config.model_copy(update=changed)


def profile_names() -> list[str]:
    """Return the names of the profiles that come with LeviBot."""
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.yaml"))


def load_profile(name_or_path: str, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile by name or path and apply overrides.

    Parameters
    ----------
    name_or_path : str
        A name from `profile_names`, or a YAML file.
    overrides : sequence of str
        Such as ``strategy.entry_threshold=0.56``; the value is read as YAML. Of `strategy.risk` it
        may be the name of a risk policy's file.

    Raises
    ------
    ConfigError
        If there is no such profile, or naming every key that is unknown or wrong.
    """
    path, content = _content(name_or_path, overrides)
    strategy = content.get("strategy")
    if isinstance(strategy, dict) and isinstance(strategy.get("risk"), str):
        # What is stored with a run is the policy itself: its file may change.
        strategy["risk"] = load_risk_policy(_beside(path, strategy["risk"])).model_dump(mode="json")
    return parse_profile(content, path.name)


def profile_files(name_or_path: str, overrides: Sequence[str] = ()) -> tuple[Path, ...]:
    """Return the files that a profile is read from: its own, and its risk policy's if it names one.

    Raises
    ------
    ConfigError
        If there is no such profile, or an override is none.
    """
    path, content = _content(name_or_path, overrides)
    strategy = content.get("strategy")
    risk = strategy.get("risk") if isinstance(strategy, dict) else None
    return (path, _beside(path, risk)) if isinstance(risk, str) else (path,)


def _content(name_or_path: str, overrides: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Return the file of a profile and what it says with the overrides, unchecked."""
    path = _find(name_or_path)
    content = read_settings(path, "profile")
    for override in overrides:
        _apply(content, override)
    return path, content


def _beside(profile: Path, name: str) -> Path:
    """Return the file of a risk policy: as named, or in the profile's folder or the one above."""
    places = [Path(name), profile.parent / name, profile.parent.parent / name]
    return next((place for place in places if place.is_file()), places[0])


def parse_profile(content: dict[str, Any], where: str) -> Profile:
    """Check the content of a profile; `where` names it in messages."""
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        faults = [text for fault in error.errors() for text in _texts(fault)]
        listed = "\n".join(f"  {text}" for text in faults)
        raise ConfigError(f"profile {where} has {len(faults)} fault(s):\n{listed}") from None


def _texts(fault: Any) -> tuple[str, ...]:
    cause = fault.get("ctx", {}).get("error")
    return cause.faults if isinstance(cause, _Faults) else (explain(fault, Profile, "profile"),)


def dump_profile(profile: Profile) -> str:
    """Return the complete profile, defaults written out, as YAML that `load_profile` reads."""
    return yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError(f"profile file {name_or_path} does not exist")
        return path
    found = PROFILE_FOLDER / f"{name_or_path}.yaml"
    if not found.is_file():
        known = profile_names()
        close = difflib.get_close_matches(name_or_path, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"profile must be a YAML file or one of {', '.join(known)}, was {name_or_path!r}; "
            f"{hint}See `levibot profiles`"
        )
    return found


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set must look like part.key=value, was {override!r}")
    *parents, last = key.strip().split(".")
    node: Any = content
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a group of keys")
    node[last] = parse_yaml(text, f"--set {override!r}")
