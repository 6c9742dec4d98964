"""What a tuning may change, and how far apart two configurations are.

A space names settings of a profile by their keys (``experts.lightgbm.num_leaves``) and says for
each either between which ends it lies or which values it may have. What decides a fit (experts,
label, fusion) is told from what only decides trades (``strategy``): a configuration that differs
in the latter alone trades on predictions that are there already.

Distance is Gower's (1971): the mean over the parameters of the distance on a scale from 0 to 1,
logarithmic where the parameter is searched so, and 0 or 1 where values have no order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from pydantic import Field, model_validator

from catalog.arrays import Float64Array
from catalog.config import Config
from catalog.errors import ConfigError

if TYPE_CHECKING:
    import optuna

type Value = float | int | bool | str
"""What a parameter may be."""

FIT_ROOTS = (
    *("experts", "label", "calibration", "fusion", "staleness", "thresholds"),
    *("holdout_frac", "half_life_days"),
)
TRADE_ROOTS = ("strategy",)
"""Parts of a profile that may be tuned: those that decide predictions, and those that do not."""
LEAST_FUSED = 2
_STAND_INS = frozenset({"heuristic"})  # part of no fusion: see `research.fitting.FALLBACKS`


class ParameterRange(Config):
    """Where one setting is looked for.

    Parameters
    ----------
    low, high : float or int, optional
        Ends, both included; whole numbers if both are. Either both or `choices`.
    log : bool
        Whether the search is even in the logarithm; needs a positive `low`.
    step : float or int, optional
        Distance of the values that are tried, counted from `low`; not with `log`.
    choices : tuple, optional
        Values without an order.
    optional : bool
        Whether it is tuned though the profile leaves it open (None, or not written). Otherwise
        what a profile leaves open stays open.
    when : dict, optional
        Settings of the profile, by key, and the values with which this parameter has a meaning.
    """

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = Field(default=None, gt=0.0)
    choices: tuple[Value, ...] | None = Field(default=None, min_length=2)
    optional: bool = False
    when: dict[str, tuple[Value, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("a parameter must have either low and high, or choices")
        if self.choices is not None:
            if self.log or self.step is not None or self.low is not None or self.high is not None:
                raise ValueError("choices must stand without low, high, log and step")
            if len({repr(one) for one in self.choices}) != len(self.choices):
                raise ValueError(f"choices must be different ones, were {self.choices}")
            return self
        low, high = self.ends
        if not low < high:
            raise ValueError(f"high must be above low ({low:g}), was {high:g}")
        if self.log and (low <= 0.0 or self.step is not None):
            raise ValueError(f"log must have a positive low and no step, low was {low:g}")
        # In decimals: 0.13 is no multiple of 0.005 in binary.
        start, stop, step = (Decimal(str(one)) for one in (low, high, self.step or 0))
        if step and (stop - start) % step:
            raise ValueError(f"step must lead from low to high, {step} does not")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of a range that is no choice."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def is_whole(self) -> bool:
        """Whether values are whole numbers."""
        parts = (self.low, self.high, self.step if self.step is not None else 1)
        return self.choices is None and all(isinstance(one, int) for one in parts)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return the same in Optuna's words."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        low, high = self.ends
        if self.is_whole:
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(low), int(high), log=self.log, step=step)
        return FloatDistribution(low, high, log=self.log, step=self.step)

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Ask an Optuna trial for a value."""
        if self.choices is not None:
            found: Any = trial.suggest_categorical(name, self.choices)
            return cast("Value", found)
        low, high = self.ends
        if self.is_whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(name, int(low), int(high), step=step, log=self.log)
        return trial.suggest_float(name, low, high, step=self.step, log=self.log)

    def written(self, value: Value) -> Value:
        """Return a value as a profile has it; see `SearchSpace.written`."""
        if self.choices is not None or not isinstance(value, float):
            return value
        low, high = self.ends
        rounded = round(value, 12) if self.step is not None else float(f"{value:.4g}")
        return min(max(rounded, low), high)

    def position(self, value: Value) -> float:
        """Return where a value lies, from 0 at `low` to 1 at `high`; of choices, its number."""
        if self.choices is not None:
            return float([repr(one) for one in self.choices].index(repr(value)))
        low, high = self.ends
        at = float(value)
        if self.log:
            return math.log(at / low) / math.log(high / low)
        return (at - low) / (high - low)

    def __str__(self) -> str:
        if self.choices is not None:
            return ", ".join(map(str, self.choices))
        low, high = self.ends
        end = f", steps of {self.step:g}" if self.step is not None else ""
        return f"{low:g} to {high:g}{' (log)' if self.log else ''}{end}"


class SearchSpace(Config):
    """Settings by key, and where each is looked for.

    Parameters
    ----------
    parameters : dict of ParameterRange
        Keys as ``--set`` has them.
    """

    parameters: dict[str, ParameterRange] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        allowed = (*FIT_ROOTS, *TRADE_ROOTS)
        wrong = [key for key in self.parameters if key.split(".")[0] not in allowed]
        if wrong:
            raise ValueError(
                f"parameters must be settings of {', '.join(allowed)}, had {', '.join(wrong)}: "
                "the data, the folds and what trading costs are no matter of choice"
            )
        return self

    @property
    def fit_keys(self) -> tuple[str, ...]:
        """Parameters that decide the predictions."""
        return tuple(key for key in self.parameters if not decides_trades(key))

    @property
    def trade_keys(self) -> tuple[str, ...]:
        """Parameters that decide only what is made of predictions."""
        return tuple(key for key in self.parameters if decides_trades(key))

    def fitting(self, content: Mapping[str, Any], *, strict: bool) -> SearchSpace:
        """Return the part of the space that has a meaning in a profile.

        Parameters
        ----------
        content : mapping
            The complete profile as JSON, defaults written out.
        strict : bool
            Whether a parameter without a meaning is an error: somebody asked for it by name.

        Raises
        ------
        ConfigError
            If nothing is left, or naming the parameters that have no meaning.
        """
        kept, lost = {}, {}
        for key, one in self.parameters.items():
            why = _without_meaning(content, key, one)
            if why:
                lost[key] = why
            else:
                kept[key] = one
        if lost and (strict or not kept):
            told = "; ".join(f"{key}: {why}" for key, why in lost.items())
            raise ConfigError(
                f"the search space must fit the profile, does not ({told}); change the space or "
                "the profile"
            )
        return SearchSpace(parameters=kept)

    def only(self, keys: Iterable[str]) -> SearchSpace:
        """Return the space of some of the parameters."""
        wanted = set(keys)
        kept = {key: one for key, one in self.parameters.items() if key in wanted}
        return SearchSpace(parameters=kept)

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Ask an Optuna trial for a value of every parameter."""
        return self.written({key: one.suggest(trial, key) for key, one in self.parameters.items()})

    def written(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return values as a profile has them, in as many digits as mean something.

        Steps are counted in decimals (0.5 + 11 x 0.005 is 0.5549999999999999 in binary), other
        fractions have four significant digits.
        """
        return {key: self.parameters[key].written(value) for key, value in values.items()}

    def distances(self, points: Sequence[Mapping[str, Value]]) -> Float64Array:
        """Return Gower's distance of every two points, (n_points, n_points), in [0, 1]."""
        total = np.zeros((len(points), len(points)))
        for key, one in self.parameters.items():
            at = np.array([one.position(point[key]) for point in points])
            apart = np.abs(at[:, None] - at[None, :])
            total += (apart > 0.0) if one.choices is not None else apart
        return total / len(self.parameters)


def decides_trades(key: str) -> bool:
    """Return whether a setting leaves predictions as they are."""
    return key.split(".")[0] in TRADE_ROOTS


def setting(content: Mapping[str, Any], key: str) -> Any:
    """Return a setting of a profile's content by its key; None where it is not there."""
    node: Any = content
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def with_settings(content: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """Return a profile's content with other settings, by key; what was given is unchanged.

    Raises
    ------
    ConfigError
        If the group of keys that one belongs to is not there.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(content))
    for key, value in values.items():
        *parents, last = key.split(".")
        node: Any = changed
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise ConfigError(f"{key} must belong to a part of the profile, which has none there")
        node[last] = value
    return changed


def _without_meaning(content: Mapping[str, Any], key: str, one: ParameterRange) -> str:
    """Return why a parameter has no meaning in a profile; empty if it has."""
    parent = key.rpartition(".")[0]
    if parent and not isinstance(setting(content, parent), Mapping):
        return f"the profile has no {parent}"
    value = setting(content, key)
    if value is None and not one.optional:
        return "the profile leaves it open"
    if one.choices is None and value is not None and not isinstance(value, int | float):
        return f"the profile has {value!r} there, not a number"
    for other, wanted in one.when.items():
        found = setting(content, other)
        if found not in wanted:
            return f"it is for {other} {' or '.join(map(str, wanted))}, which is {found}"
    if key.startswith("fusion."):
        experts = {name for name, given in content["experts"].items() if given is not None}
        if len(experts - _STAND_INS) < LEAST_FUSED:
            return "there is one expert only, nothing is fused"
    return ""
