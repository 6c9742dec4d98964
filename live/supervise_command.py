"""What `levibot live supervise` and the commands to engines do."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from adapters.venues import venue_of
from catalog.errors import ConfigError, RunFailedError
from live.console import tell
from live.engine_health import HealthLimits
from live.engine_plan import FleetPlan, check_profiles, load_plan, plan_of
from live.engine_process import ProcessRules
from live.engine_request import EngineRequest, chosen_instruments
from live.fleet_observers import close_observers, observers_of
from live.fleet_profiles import profiles_of, smallest_daily_loss, stale_secs
from live.given_up import GivenUp
from live.overview import is_supervised
from live.registry import ALL_ENGINES, CommandName, Registry
from live.restarts import RestartPolicy
from live.state_folder import StateFolder
from live.stop_signals import end_at_hangup
from live.supervisor import Supervisor, SupervisorConfig
from research.bundle import verify_bundle

ANSWER_SECS = 60.0
_STARTS_A_MINUTE = 8
"""A start on an account weighs about 200 of the 2,400 that Binance grants an address a minute
(orders of all symbols, transfers, positions, their kind), and a running engine 48."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperviseRequest:
    """What to supervise.

    Parameters
    ----------
    state : Path
        State folder.
    symbols : str
        Such as ``BTCUSDT,ETHUSDT``: one engine each; or
    plan : Path or None
        a file that describes the engines (`live.engine_plan`).
    profile, bundle : str
        Of the engines that name none themselves.
    mode : str
        ``paper``, ``testnet`` or ``live``.
    equity : float or None
        USDT that the engines share.
    options : tuple of str
        Further options of `levibot live run`, handed to every engine.
    healthy_secs : float
        See `RestartPolicy`.
    grace_secs : float
        See `ProcessRules`.
    starts_at_once : int
        See `SupervisorConfig`.
    """

    state: Path
    symbols: str = ""
    plan: Path | None = None
    profile: str = ""
    bundle: str = ""
    mode: str = "paper"
    equity: float | None = None
    options: tuple[str, ...] = ()
    healthy_secs: float = 3_600.0
    grace_secs: float = 15.0
    starts_at_once: int = 2


def fleet_of(request: SuperviseRequest) -> FleetPlan:
    """Return the plan of a request, every profile in it checked.

    Raises
    ------
    ConfigError
        If there are neither symbols nor a plan, or both, or a profile or the plan is wrong, or no
        live engine runs on the venue of one.
    """
    if bool(request.symbols) == (request.plan is not None):
        raise ConfigError(
            "engines must be named either by --symbols or by --engines, were "
            + ("by both" if request.plan is not None else "not named at all")
        )
    settings: dict[str, Any] = {
        "profile": request.profile,
        "bundle": request.bundle,
        "mode": request.mode,
        "equity": request.equity,
    }
    if request.plan is not None:
        plan = load_plan(request.plan, **settings)
    else:
        symbols = [one.strip() for one in request.symbols.split(",") if one.strip()]
        plan = plan_of(symbols, **settings)
    plan = _overridden(plan, request.options)
    check_profiles(plan)
    for name in plan.engines:
        if not plan.bundle_of(name):
            raise ConfigError(f"engine {name} must have a bundle, had none: give --bundle")
    if not _values(request.options, "--replay"):
        for profile in profiles_of(plan).values():
            venue_of(profile.data.instruments).require_runs()
    return plan


def _overridden(plan: FleetPlan, options: tuple[str, ...]) -> FleetPlan:
    """Return the plan with what ``--set`` among the options for all engines overrides."""
    common = _values(options, "--set")
    engines = {
        name: one.model_copy(update={"set": (*one.set, *common)})
        for name, one in plan.engines.items()
    }
    return plan.model_copy(update={"engines": engines}) if common else plan


def _values(options: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Return what an option of `levibot live run` is given, as ``--name value`` or ``=value``."""
    found = []
    for number, one in enumerate(options):
        if one == name and number + 1 < len(options):
            found.append(options[number + 1])
        elif one.startswith(f"{name}="):
            found.append(one.partition("=")[2])
    return tuple(found)


def require_bundles(plan: FleetPlan) -> None:
    """Refuse a plan with a bundle that is not there, or not what was saved.

    Raises
    ------
    DataError
        If there is none.
    IntegrityError
        If its files were changed.
    """
    for path in sorted({plan.bundle_of(name) for name in plan.engines}):
        verify_bundle(Path(path))


def announce(request: SuperviseRequest, plan: FleetPlan) -> None:
    """Say what is about to be risked, before it is.

    Raises
    ------
    ConfigError
        If an engine cannot be meant, keys are missing, or nobody has allowed to trade with money.
    """
    if plan.mode == "paper":
        tell("paper: no order reaches an exchange")
        return
    engines = requests_of(request, plan)
    for one in engines:
        one.order_connection()
    for one in engines:
        tell(one.at_risk())
    loss = smallest_daily_loss(profiles_of(plan).values())
    tell(f"all engines together: at a loss of {loss:.1%} in a day the kill switch is set")


def requests_of(request: SuperviseRequest, plan: FleetPlan) -> list[EngineRequest]:
    """Return what each engine of a plan is asked to do."""
    exchange = _values(request.options, "--exchange")
    return [
        EngineRequest(
            profile=profile,
            bundle=Path(plan.bundle_of(name)),
            state=request.state,
            traded=chosen_instruments(profile, ",".join(plan.symbols_of(name))),
            mode=plan.mode,
            name=name,
            exchange=exchange[-1] if exchange else None,
            equity=plan.equity_of(name),
        )
        for name, profile in profiles_of(plan).items()
    ]


def run_command(
    state: Path, options: tuple[str, ...] = ()
) -> Callable[[str, FleetPlan], tuple[str, ...]]:
    """Return what makes the command line of an engine: `levibot live run` with its settings.

    Parameters
    ----------
    state : Path
        State folder.
    options : tuple of str
        Further options for every engine.
    """

    def command(name: str, plan: FleetPlan) -> tuple[str, ...]:
        equity = plan.equity_of(name)
        # An override for all engines comes twice: of the plan, and among the options.
        overrides = [part for one in plan.engines[name].set for part in ("--set", one)]
        return (
            *(sys.executable, "-m", "live.cli", "live", "run", "--name", name),
            *("--profile", plan.profile_of(name), "--bundle", plan.bundle_of(name)),
            *("--mode", plan.mode, "--symbols", ",".join(plan.symbols_of(name))),
            *("--state", str(state)),
            *(() if equity is None else ("--equity", f"{equity:.8f}")),
            *overrides,
            *options,
        )

    return command


def supervise(request: SuperviseRequest) -> None:
    """Supervise until SIGTERM, Ctrl-C or the terminal's end, then end every engine in order.

    Raises
    ------
    ConfigError
        If the request is wrong or another supervisor has the folder.
    DataError
        If a bundle is not there.
    IntegrityError
        If a bundle was changed.
    """
    plan = fleet_of(request)
    announce(request, plan)
    require_bundles(plan)
    folder = StateFolder(request.state)
    observers = observers_of(request.state, plan, request.plan)
    if plan.mode != "paper":
        engines = {one.name: one for one in requests_of(request, plan)}
        observers += (GivenUp(engines, lambda text: tell(f"supervisor: {text}")),)
    supervisor = Supervisor(
        folder,
        plan,
        run_command(request.state, request.options),
        supervisor_config(request, plan),
        observers,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        supervisor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    end_at_hangup()
    try:
        supervisor.run()
    finally:
        close_observers(observers)


def supervisor_config(request: SuperviseRequest, plan: FleetPlan) -> SupervisorConfig:
    """Return how the engines of a plan are supervised; bars may be late by two of the longest."""
    rules = ProcessRules(
        restarts=RestartPolicy(healthy_secs=request.healthy_secs),
        health=HealthLimits(data_age_secs=stale_secs(profiles_of(plan).values())),
        grace_secs=request.grace_secs,
    )
    return SupervisorConfig(
        rules,
        starts_at_once=request.starts_at_once,
        starts_a_minute=None if plan.mode == "paper" else _STARTS_A_MINUTE,
    )


def ask_engine(state: Path, command: CommandName, engine: str, who: str) -> str:
    """Ask the supervisor for something, wait, and return what came of it.

    Raises
    ------
    DataError
        If there is no registry.
    RunFailedError
        If no supervisor runs, it was refused, or nobody answered.
    """
    registry = Registry(StateFolder(state).registry, create=False)
    try:
        if not is_supervised(registry, time.time_ns()):
            raise RunFailedError(
                f"a supervisor of {state} must run to {command} an engine, none does: start "
                "`levibot live supervise`; Ctrl-C or SIGTERM ends an engine that was started by "
                "hand, and `levibot live kill` stops all trading"
            )
        number = registry.ask(command, engine, who)
        outcome = registry.wait_for(number, ANSWER_SECS)
    finally:
        registry.close()
    if outcome is None:
        raise RunFailedError(
            f"the supervisor of {state} must answer within {ANSWER_SECS:g} s, did not: look "
            "whether `levibot live supervise` runs; the request lapses after a minute"
        )
    told = f"{command} {'all' if engine == ALL_ENGINES else engine}: {outcome}"
    if outcome != "done":
        raise RunFailedError(told)
    return told
