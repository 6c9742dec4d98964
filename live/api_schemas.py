"""What the control service answers. Times are UTC nanoseconds, money USDT, null is unknown."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from live.engine_status import EngineStatus, ExpertStatus, ModelStatus
from live.kill_switch import KillSwitch
from live.overview import EngineView, Overview, PredictionView
from live.registry import AuditEntry, Command, EngineRecord


class Answer(BaseModel):
    """What all answers and questions have in common: nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Answer):
    """Why something was refused or could not be done."""

    detail: str


class Engine(Answer):
    """One engine in a line."""

    engine: str
    mode: str
    state: str = Field(description="What the engine last said it does.")
    running: bool = Field(description="Whether it said so less than ten seconds ago.")
    wanted: bool = Field(description="Whether it is to run.")
    instruments: tuple[str, ...]
    problems: tuple[str, ...]

    @classmethod
    def of(cls, view: EngineView) -> Self:
        """Describe an engine."""
        status = view.status
        return cls(
            engine=status.engine,
            mode=status.mode,
            state=status.state,
            running=view.running,
            wanted=view.wanted,
            instruments=status.instruments,
            problems=view.problems,
        )


class EngineDetail(Engine):
    """One engine with all that is known of it."""

    heartbeat_age_s: float | None
    uptime_s: float | None
    drawdown_ratio: float | None
    day_loss_ratio: float | None
    status: EngineStatus
    process: EngineRecord | None = Field(description="What the supervisor knows; null without one.")

    @classmethod
    def of(cls, view: EngineView) -> Self:
        """Describe an engine with everything."""
        return cls(
            **dict(Engine.of(view)),
            heartbeat_age_s=view.heartbeat_age_secs,
            uptime_s=view.age_secs(view.status.started_ns) if view.running else None,
            drawdown_ratio=view.drawdown_frac,
            day_loss_ratio=view.day_loss_frac,
            status=view.status,
            process=view.record,
        )


class Kill(Answer):
    """The kill switch."""

    enabled: bool
    who: str | None = None
    ts_ns: int | None = None
    why: str | None = None

    @classmethod
    def of(cls, switch: KillSwitch | None) -> Self:
        """Describe the switch."""
        if switch is None:
            return cls(enabled=False)
        return cls(enabled=True, who=switch.who, ts_ns=switch.ts_ns, why=switch.why)


class KillAnswer(Kill):
    """The kill switch after a command."""

    audited: bool = Field(description="Whether the audit log has the command.")
    note: str
    not_flat: dict[str, str] = Field(
        default={}, description="Engines that are not halted and flat, and what is known of each."
    )


class EngineHealth(Answer):
    """Whether an engine does what it should, how old its inputs are, and its model."""

    healthy: bool
    state: str
    problems: tuple[str, ...]
    heartbeat_age_s: float | None
    last_bar_age_s: float | None
    feature_age_s: dict[str, float | None]
    model: ModelStatus

    @classmethod
    def of(cls, view: EngineView) -> Self:
        """Judge an engine."""
        status = view.status
        return cls(
            healthy=not view.problems,
            state=status.state,
            problems=view.problems,
            heartbeat_age_s=view.heartbeat_age_secs,
            last_bar_age_s=view.age_secs(status.last_bar_ns),
            feature_age_s=view.input_ages_secs(),
            model=status.model,
        )


class Health(Answer):
    """Whether everything that is wanted runs without a problem."""

    status: Literal["ok", "degraded", "down"] = Field(
        description="ok: no problem; degraded: some; down: nothing can be known."
    )
    ts_ns: int
    kill_switch: Kill
    supervised: bool
    problem: str = ""
    engines: dict[str, EngineHealth]


class Prediction(Answer):
    """The newest prediction of an engine for an instrument."""

    engine: str
    instrument: str
    ts_ns: int
    age_s: float | None
    prob_up: float | None
    epistemic: float | None
    confidence: float | None
    degraded: bool

    @classmethod
    def of(cls, view: PredictionView) -> Self:
        """Describe a prediction."""
        one = view.prediction
        return cls(
            engine=view.engine,
            instrument=view.instrument,
            ts_ns=one.ts_ns,
            age_s=view.age_secs,
            prob_up=one.prob_up,
            epistemic=one.epistemic,
            confidence=one.confidence,
            degraded=one.degraded,
        )


class Predicted(Answer):
    """What every engine says about one symbol."""

    symbol: str
    predictions: tuple[Prediction, ...]


class ModelState(Answer):
    """The model of an engine and how its experts fare."""

    engine: str
    running: bool
    predictions: int = Field(description="Since the engine's process started.")
    degraded: tuple[str, ...] = Field(description="Instruments whose newest prediction is.")
    model: ModelStatus
    experts: dict[str, ExpertStatus]

    @classmethod
    def of(cls, view: EngineView) -> Self:
        """Describe the model of an engine."""
        status = view.status
        return cls(
            engine=status.engine,
            running=view.running,
            predictions=status.counters.predictions,
            degraded=tuple(name for name, one in status.predictions.items() if one.degraded),
            model=status.model,
            experts=status.experts,
        )


class Automation(Answer):
    """All engines together."""

    running: int
    wanted: int
    engines: int
    states: dict[str, int] = Field(description="How many engines are in which state.")
    supervised: bool
    kill_switch: Kill
    pending_commands: int
    problems: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, overview: Overview) -> Self:
        """Describe all engines."""
        return cls(
            running=sum(one.running for one in overview.engines),
            wanted=sum(one.wanted for one in overview.engines),
            engines=len(overview.engines),
            states=overview.states,
            supervised=overview.supervised,
            kill_switch=Kill.of(overview.kill),
            pending_commands=overview.pending,
            problems=overview.problems,
        )


class CommandAnswer(Answer):
    """A command that was passed on to the supervisor, and its outcome once there is one."""

    number: int
    command: str
    engine: str
    by: str
    ts_ns: int
    outcome: str | None
    answered_ns: int | None

    @classmethod
    def of(cls, command: Command) -> Self:
        """Describe a command."""
        return cls(
            number=command.id,
            command=command.command,
            engine=command.engine,
            by=command.by,
            ts_ns=command.ts,
            outcome=command.outcome,
            answered_ns=command.answered_ns,
        )


class Audited(Answer):
    """A line of the audit log."""

    number: int
    ts_ns: int
    who: str
    command: str
    target: str
    outcome: str

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """Describe a line."""
        return cls(
            number=entry.id,
            ts_ns=entry.ts,
            who=entry.who,
            command=entry.command,
            target=entry.target,
            outcome=entry.outcome,
        )


class PredictQuery(Answer):
    """Which predictions are asked for."""

    symbol: str = Field(min_length=1, max_length=64, examples=["BTCUSDT"])


class AuditQuery(Answer):
    """How many lines of the audit log are asked for."""

    limit: int = Field(default=100, ge=1, le=1_000)
