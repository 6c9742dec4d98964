"""Which groups of features exist, what each must define, and which a configuration switches on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, cast

from catalog.errors import ConfigError
from research import kernels
from research.feature_config import FeatureConfig
from research.feature_table import Feature
from research.groups import driver

type Input = tuple[str, int]
"""What a group listens to (see `flow_input`, …; a series by its own name) and the row of its
state which that belongs to."""


class Group(Protocol):
    """What a group's module defines; see `research.groups` and `research.kernels`.

    The functions listed in `HELPERS` are plain Python over `math` alone that numba compiles
    (`step` and, where a group listens to anything, `take` among them); `SOURCES` are further
    modules whose source decides the values.

    Where a group defines ``inputs(instruments, options)``, it listens to those as well as to
    bars: ``take(ts, row, values, floats, ints, settings)`` is called for each record, in the order
    of `ts`, before the step of the first bar whose ``ts_init`` is not earlier. `values` has five
    numbers, of which an input uses the first few. A group of which each input has a row of its own
    and which takes in much may define `take_run` instead; see `TakeRun`.
    """

    NAME: str
    FLOATS: int
    INTS: int
    HELPERS: tuple[Callable[..., Any], ...]
    SOURCES: tuple[ModuleType, ...]

    def features(self, options: Any) -> tuple[Feature, ...]:
        """Return the rows of the feature table."""

    def settings(self, instruments: Sequence[str], interval_ns: int, options: Any) -> list[int]:
        """Return the kernel's settings; the driver overwrites the first with the first column."""

    def step(
        self,
        slot: int,
        interval_ns: int,
        present: Any,
        bars: Any,
        floats: Any,
        ints: Any,
        settings: Any,
        rows: Any,
        at: Any,
        valid: Any,
    ) -> None:
        """Take one slot's bars in; write the columns of the rows that are present and valid."""


class Take(Protocol):
    """How a group takes in a record that is not a bar."""

    def __call__(
        self, ts: int, row: int, values: Any, floats: Any, ints: Any, settings: Any
    ) -> None:
        """Take in the five `values` known at `ts`, for one row of the state."""


class TakeRun(Protocol):
    """How a group takes in several records of one row, of which the other rows know nothing."""

    def __call__(
        self,
        record_ts: Any,
        record_columns: Any,
        first: int,
        end: int,
        row: int,
        floats: Any,
        ints: Any,
        settings: Any,
    ) -> None:
        """Take in the records from `first` to before `end`, in their order, for one row.

        `record_ts` and the five `record_columns` may hold more. However many come at a time, the
        state must be the same to the bit.
        """


@dataclass(frozen=True, slots=True)
class GroupUse:
    """A group that is switched on, and what the configuration says about it.

    Parameters
    ----------
    name : str
        Name of the module in `research.groups`.
    options : Any
        What `Group.features` and `Group.settings` are given: () where there is nothing to say.
    """

    name: str
    options: Any

    @property
    def module(self) -> Group:
        """The group's module, imported now at the latest."""
        return cast("Group", importlib.import_module(f"research.groups.{self.name}"))

    @property
    def sources(self) -> tuple[ModuleType, ...]:
        """The modules whose source decides the group's values: its own first."""
        module = self.module
        return (cast("ModuleType", module), *module.SOURCES, driver, kernels, *kernels.SOURCES)

    def features(self) -> tuple[Feature, ...]:
        """Return the group's rows of the feature table."""
        return self.module.features(self.options)

    def inputs(self, instruments: Sequence[str]) -> tuple[Input, ...]:
        """Return what the group listens to beside bars."""
        find = getattr(self.module, "inputs", None)
        return () if find is None else find(tuple(instruments), self.options)


def groups_of(config: FeatureConfig) -> tuple[GroupUse, ...]:
    """Return the groups that a configuration switches on, in the order of their columns."""
    slow = (config.onchain, config.fear_greed, *config.dvol, *config.news)
    wanted = (
        ("smc", config.smc, ()),
        ("timeframes", bool(config.timeframes), config.timeframes),
        ("cross", config.cross, config.lead),
        ("regime", config.regime, ()),
        ("flow", config.flow, ()),
        ("path", config.path, ()),
        ("slow", any(slow) or config.funding_terms, config),
    )
    return tuple(GroupUse(name, options) for name, is_on, options in wanted if is_on)


def flow_input(instrument_id: str) -> str:
    """Return the name under which groups listen to an instrument's order flow."""
    return f"flow {instrument_id}"


def minute_input(instrument_id: str) -> str:
    """Return the name under which groups listen to an instrument's 1-minute bars."""
    return f"minute {instrument_id}"


def funding_input(instrument_id: str) -> str:
    """Return the name under which groups listen to an instrument's settled funding rates."""
    return f"funding {instrument_id}"


def first_columns(uses: Sequence[GroupUse], names: Sequence[str]) -> list[int]:
    """Return where each group's columns begin, refusing names that are there twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"features must have distinct names, were there twice: {', '.join(twice)}"
        )
    return [names.index(use.features()[0].name) for use in uses]
