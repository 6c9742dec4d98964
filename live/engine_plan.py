"""Which engines there are to be: symbols, settings and share of the account of each.

From options alone there is one engine for each symbol, with equal shares. A file says more::

    equity: 100000                # USDT to divide among them
    engines:
      BTCUSDT: {share: 2, set: [strategy.entry_threshold=0.57]}
      ETHUSDT: {}
      alts: {symbols: [SOLUSDT, XRPUSDT], profile: perps-15m, bundle: bundles/alts}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.strict_yaml import explain, read_settings
from live.engine_status import check_engine_name


class EnginePlan(Config):
    """One engine as it is to be.

    Parameters
    ----------
    symbols : tuple of str
        What it trades, such as ``BTCUSDT``; empty: the engine's own name.
    profile, bundle : str
        Settings and model; empty: those of all engines.
    share : float
        Weight of its part of the account among all engines, positive.
    set : tuple of str
        Overrides of the profile, such as ``strategy.entry_threshold=0.57``.
    """

    symbols: tuple[str, ...] = ()
    profile: str = ""
    bundle: str = ""
    share: float = Field(default=1.0, gt=0.0)
    set: tuple[str, ...] = ()


class FleetPlan(Config):
    """All engines of an account.

    Parameters
    ----------
    engines : dict of str to EnginePlan
        By name; each symbol belongs to one engine.
    equity : float or None
        USDT to divide. None: each engine counts with the balance of its profile's execution, which
        is for paper only, because an account must not be spent twice.
    mode : {"paper", "testnet", "live"}
        Of all of them.
    profile, bundle : str
        For engines that name none.
    """

    engines: dict[str, EnginePlan] = Field(min_length=1)
    equity: float | None = Field(default=None, gt=0.0)
    mode: Literal["paper", "testnet", "live"] = "paper"
    profile: str = ""
    bundle: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.engines:
            try:
                check_engine_name(name)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        owners = Counter(one for name in self.engines for one in self.symbols_of(name))
        twice = sorted(symbol for symbol, count in owners.items() if count > 1)
        if twice:
            raise ValueError(
                f"a symbol must belong to one engine, was given to several: {', '.join(twice)}; "
                "an account holds one position in each"
            )
        if self.equity is None and self.mode != "paper" and len(self.engines) > 1:
            raise ValueError(
                f"equity must be given where {len(self.engines)} engines share an account "
                f"(mode {self.mode}), was not: each would take all of it for its own"
            )
        return self

    def symbols_of(self, name: str) -> tuple[str, ...]:
        """Return what an engine trades."""
        return self.engines[name].symbols or (name,)

    def profile_of(self, name: str) -> str:
        """Return the name or path of an engine's profile."""
        return self.engines[name].profile or self.profile

    def bundle_of(self, name: str) -> str:
        """Return the folder of an engine's bundle; "" if none was named."""
        return self.engines[name].bundle or self.bundle

    def share_of(self, name: str) -> float:
        """Return an engine's part of the account, a fraction; all parts sum to 1."""
        return self.engines[name].share / sum(one.share for one in self.engines.values())

    def equity_of(self, name: str) -> float | None:
        """Return an engine's part in USDT; None where nothing is divided."""
        return None if self.equity is None else self.equity * self.share_of(name)


def plan_of(symbols: Sequence[str], **settings: str | float | None) -> FleetPlan:
    """Return a plan with one engine for each symbol and equal shares.

    Parameters
    ----------
    symbols : sequence of str
        Such as ``BTCUSDT``.
    **settings
        Further fields of `FleetPlan`.

    Raises
    ------
    ConfigError
        If a symbol is there twice or cannot be an engine's name.
    """
    if len(set(symbols)) != len(symbols):
        raise ConfigError(f"symbols must be distinct, were {', '.join(symbols)}")
    return _parsed({"engines": {one: {} for one in symbols}, **settings}, "of the options")


def load_plan(path: Path, **settings: str | float | None) -> FleetPlan:
    """Read a plan from YAML; `settings` count where the file says nothing.

    Raises
    ------
    ConfigError
        If it cannot be read, naming every key that is unknown or wrong.
    """
    given = {name: value for name, value in settings.items() if value not in (None, "")}
    return _parsed({**given, **read_settings(path, "plan of engines")}, path.name)


def check_profiles(plan: FleetPlan) -> None:
    """Refuse a plan of which any profile is wrong, before any engine is touched.

    Raises
    ------
    ConfigError
        Naming the engine.
    """
    from live.profile import load_profile

    for name, engine in plan.engines.items():
        profile = plan.profile_of(name)
        if not profile:
            raise ConfigError(f"engine {name} must have a profile, had none: give --profile")
        try:
            load_profile(profile, engine.set)
        except ConfigError as error:
            error.add_note(f"it is the profile of engine {name}; no engine was touched")
            raise


def _parsed(content: object, where: str) -> FleetPlan:
    try:
        return FleetPlan.model_validate(content)
    except ValidationError as error:
        faults = "\n".join(f"  {_explained(one)}" for one in error.errors())
        raise ConfigError(f"plan {where} has {error.error_count()} fault(s):\n{faults}") from None


def _explained(fault: Any) -> str:
    place = fault["loc"]
    if len(place) < 3 or place[0] != "engines":
        return explain(fault, FleetPlan, "plan")
    within = explain({**fault, "loc": place[2:]}, EnginePlan, "engine")
    return f"engines.{place[1]}.{within}"
