"""One engine assembled, before it has a node: who predicts, who trades, who guards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from catalog.errors import ConfigError
from catalog.instruments import definition, known_spec
from catalog.store import Catalog
from catalog.timestamps import interval_ns
from live.engine_request import EngineRequest
from live.engine_status import ModelStatus
from live.kill_switch import kill_file
from live.live_guard import GuardFiles, LiveGuard, Traded, live_guard
from live.profile import Profile
from live.question import require_same_question
from live.state_store import StateStore
from research.bundle import Bundle, load_bundle
from research.predictor import BundlePredictor
from strategies.backtest import expected_costs
from strategies.execution import ExecutionConfig
from strategies.fusion import StrategySettings
from strategies.kept import KeptStrategy
from strategies.limit_orders import LimitStyle
from strategies.policy_config import FusionPolicy
from strategies.predictor_actor import PredictorActor, PredictorActorConfig
from strategies.recorder import RunRecorder
from strategies.settings_check import check_settings
from strategies.throttle import require_room

GUARD_FILE = "guard.json"
STATE_FILE = "engine.db"
PAPER_FILE = "paper.db"
_PATIENCE_MS = 5_000
"""How long bars of one time are waited for where nobody else does: milliseconds."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an engine is made of, loaded and checked.

    Parameters
    ----------
    request : EngineRequest
        What was asked.
    bundle : Bundle
        Verified.
    predictor : BundlePredictor
        Fresh.
    policy : FusionPolicy
        The profile's, with the state folder's kill switch.
    execution : ExecutionConfig
        The profile's, with the equity of the engine.
    """

    request: EngineRequest
    bundle: Bundle
    predictor: BundlePredictor
    policy: FusionPolicy
    execution: ExecutionConfig

    @property
    def interval_ns(self) -> int:
        """Length of a bar, nanoseconds."""
        return self.predictor.spec.interval_ns

    @property
    def instruments(self) -> tuple[str, ...]:
        """What is predicted; what is traded is part of it."""
        return self.predictor.spec.instruments

    def definitions(self) -> tuple[Any, ...]:
        """Return the engine's definitions as the catalog has them, or else the built-in ones.

        Raises
        ------
        ConfigError
            If an instrument is in neither.
        """
        catalog = self.request.catalog
        if catalog is not None:
            store = Catalog.open(catalog)
            return tuple(store.instrument(name) for name in self.instruments)
        return tuple(definition(known_spec(name)) for name in self.instruments)

    def model_status(self) -> ModelStatus:
        """Return what predicts, for the registry."""
        manifest = self.bundle.manifest
        return ModelStatus(
            bundle=str(self.bundle.path),
            digest=str(manifest["digest"]),
            trained_until=int(manifest["training"]["until"]),
            metrics={name: _value(one) for name, one in manifest["metrics"].items()},
        )


def _value(estimate: Any) -> float | None:
    """Return the value of an estimate as a manifest has it; its interval is left out."""
    value = estimate.get("value") if isinstance(estimate, dict) else None
    return float(value) if isinstance(value, int | float) else None


def prepare(request: EngineRequest) -> Prepared:
    """Load and check what an engine needs; nothing is started or written.

    Raises
    ------
    ConfigError, DataError, IntegrityError
        If bundle, profile, policy and account do not fit one another.
    """
    profile = request.profile
    bundle = load_bundle(request.bundle)
    require_same_question(profile, bundle)
    # Plain Python features: the same numbers, without a compiler in the process.
    predictor = BundlePredictor(bundle.model, compiled=False, breaker=profile.breaker)
    policy = engine_policy(request, profile)
    execution = profile.execution
    if request.equity is not None:
        execution = execution.model_copy(update={"starting_balance": round(request.equity, 8)})
    check_settings(policy, execution, request.traded, interval_ns(profile.data.interval))
    require_room(policy.risk, len(request.traded))
    return Prepared(request, bundle, predictor, policy, execution)


def engine_policy(request: EngineRequest, profile: Profile) -> FusionPolicy:
    """Return the policy of a profile with the kill switch of the engine's state folder."""
    risk = profile.strategy.risk
    if risk is None:
        raise ConfigError(
            "a live process must have a risk policy, the profile has none: name its file as risk: "
            "in the profile's strategy"
        )
    switch = str(kill_file(request.state).absolute())
    return profile.strategy.with_risk(risk.model_copy(update={"kill_switch_file": switch}))


@dataclass(frozen=True, slots=True)
class EngineParts:
    """The components of one engine.

    Parameters
    ----------
    prepared : Prepared
        What they were made from.
    instruments : tuple of Nautilus instruments
        What is traded, as the exchange defines it.
    recorder : RunRecorder
        Orders, fills, ledger, errors.
    actor : PredictorActor
        Who predicts.
    strategy : KeptStrategy
        Who trades, and survives its process.
    guard : LiveGuard
        Claimed.
    store : StateStore
        Journal and state.
    """

    prepared: Prepared
    instruments: tuple[Any, ...]
    recorder: RunRecorder
    actor: PredictorActor
    strategy: KeptStrategy
    guard: LiveGuard
    store: StateStore

    @property
    def request(self) -> EngineRequest:
        """What was asked."""
        return self.prepared.request


def claim_guard(prepared: Prepared) -> LiveGuard:
    """Restore the risk guard, and keep other processes from being the same engine.

    Raises
    ------
    ConfigError
        If another process is this engine already.
    DataError
        If the state folder cannot be written to.
    """
    request = prepared.request
    files = GuardFiles(request.folder / GUARD_FILE)
    traded = Traded(request.traded, prepared.interval_ns)
    return live_guard(prepared.policy, prepared.execution, traded, files)


class Setting(NamedTuple):
    """Where an engine's components live.

    Parameters
    ----------
    instruments : tuple of Nautilus instruments
        Of everything that is predicted, as the exchange defines it.
    fed : bool
        Whether a market feed hands over the records; else the components subscribe themselves.
    claims : bool
        Whether what the exchange holds of the traded instruments is the engine's.
    balance : float or None
        USDT of the account; None for the profile's.
    """

    instruments: tuple[Any, ...]
    fed: bool
    claims: bool = False
    balance: float | None = None


def assemble(
    prepared: Prepared, guard: LiveGuard, store: StateStore, setting: Setting
) -> EngineParts:
    """Make the components of an engine.

    Parameters
    ----------
    prepared : Prepared
        Checked.
    guard : LiveGuard
        Claimed.
    store : StateStore
        The engine's journal and state.
    setting : Setting
        Where they live.

    Raises
    ------
    ConfigError
        If an instrument that is traded has no definition.
    """
    request, execution = prepared.request, prepared.execution
    known = {str(one.id): one for one in setting.instruments}
    missing = [name for name in request.traded if name not in known]
    if missing:
        raise ConfigError(
            f"{request.venue.title} must know every instrument that is traded, does not know "
            f"{', '.join(missing)}; it may have been delisted: take another --symbols"
        )
    traded = tuple(known[name] for name in request.traded)
    balance = execution.starting_balance if setting.balance is None else setting.balance
    recorder = RunRecorder(prepared.instruments, balance)
    settings = StrategySettings(
        instruments=traded,
        interval_ns=prepared.interval_ns,
        tag=request.order_tag,
        books_funding=execution.funding == "recorded",
        costs=expected_costs(execution, prepared.interval_ns),
        limits=LimitStyle.of(execution),
        fed=setting.fed,
        claims=setting.claims,
    )
    waits = PredictorActorConfig(_PATIENCE_MS, data_client=request.venue.venue, fed=setting.fed)
    actor = PredictorActor(prepared.predictor, recorder, waits)
    strategy = KeptStrategy(prepared.policy, settings, recorder, guard.guard, store)
    return EngineParts(prepared, traded, recorder, actor, strategy, guard, store)
