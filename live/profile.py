"""One file that describes one run: data, features, label, model, folds, strategy, execution.

A profile is YAML, checked key by key; the profiles that come with LeviBot lie in `live/profiles`
and are found by name. `Profile.content_hash()` is stored with every result.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.timestamps import format_time, interval_ns
from research.calibration import CalibrationConfig
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


class Profile(Config):
    """Everything that one run depends on, apart from the data itself.

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
    threads : int
        Steps of fits that run beside one another; no result depends on it.
    """

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
    thresholds: ThresholdConfig = ThresholdConfig()
    holdout_frac: float = Field(default=0.12, gt=0.0, le=0.5)
    half_life_days: float | None = Field(default=None, ge=1.0)
    threads: int = Field(default=2, ge=1, le=256)
    validation: ValidationConfig
    strategy: FusionPolicy
    execution: ExecutionConfig
    bootstrap: BootstrapConfig = BootstrapConfig()

    @model_validator(mode="after")
    def _spread_seed(self) -> Self:
        """Let the one seed reach every part, so that what is stored is what is used."""
        object.__setattr__(self, "experts", _seeded(self.experts, self.seed))
        object.__setattr__(self, "bootstrap", _seeded(self.bootstrap, self.seed))
        return self

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
        Such as ``strategy.entry_threshold=0.56``; the value is read as YAML.

    Raises
    ------
    ConfigError
        If there is no such profile, or naming every key that is unknown or wrong.
    """
    path = _find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"profile {name_or_path} cannot be read: {error}") from error
    content = _parse_yaml(text, f"profile {path.name}")
    if not isinstance(content, dict):
        raise ConfigError(f"profile {path.name} must be a mapping of keys, was {content!r:.60}")
    for override in overrides:
        _apply(content, override)
    return parse_profile(content, path.name)


def parse_profile(content: dict[str, Any], where: str) -> Profile:
    """Check the content of a profile; `where` names it in messages."""
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        faults = "\n".join(f"  {_explain(fault)}" for fault in error.errors())
        raise ConfigError(
            f"profile {where} has {error.error_count()} fault(s):\n{faults}"
        ) from None


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
    node[last] = _parse_yaml(text, f"--set {override!r}")


class _StrictLoader(yaml.SafeLoader):
    """YAML without objects, that refuses a key which is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise yaml.YAMLError(f"a key must be given once, given twice: {', '.join(twice)}")
        return super().construct_mapping(node, deep=deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    # ValueError: a date that the calendar does not have; RecursionError: nesting without end.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} must be YAML: {error}") from error


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"]) or "profile"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(fault["loc"][:-1])
        close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{key}: must be given, was missing; there is no default for it"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}, was {fault['input']!r:.80}" if fault["loc"] else f"{key}: {message}"


def _known_keys(location: Sequence[str | int]) -> list[str]:
    model: Any = Profile
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        # Of ``Settings | None`` the settings.
        choices = [one for one in get_args(field.annotation) if one is not NoneType]
        model = choices[0] if choices else field.annotation
    return list(getattr(model, "model_fields", {}))
