"""The control service: HTTP routes over the registry of a state folder.

A process of its own. It reads what engines and their supervisor write, and passes commands on to
the supervisor; it trades nothing, and its death stops nothing. The kill switch is a file, which
needs neither of them (`live.kill_switch`).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp

from catalog.errors import DataError
from live.api_door import Door, DoorConfig, RequestMetrics, client_of
from live.api_schemas import (
    Audited,
    AuditQuery,
    Automation,
    CommandAnswer,
    Engine,
    EngineDetail,
    EngineHealth,
    Health,
    Kill,
    KillAnswer,
    ModelState,
    Predicted,
    Prediction,
    PredictQuery,
    Problem,
)
from live.kill_command import not_flat
from live.kill_switch import lift_kill, set_kill
from live.metrics import CONTENT_TYPE, render
from live.overview import Overview, Reading, RegistryReader
from live.registry import ALL_ENGINES, CommandName

_STAYS_HALTED = (
    "the risk guards stay halted until a person releases each: levibot guard release --state "
    "STATE/engines/ENGINE/guard.json"
)
_STOPS = "every engine cancels its orders, closes its positions and opens nothing"
_NOT_ALL_FLAT = (
    "the switch is set, but the engines in not_flat are not: end the process of one that does not "
    "react; what one without a process holds, close at the exchange, or start the engine"
)
FLAT_SECS = 2.0
"""How long an answer waits for engines to be flat: they report once a second."""


class Service:
    """What the routes do.

    Parameters
    ----------
    folder : RegistryReader
        The state folder.
    metrics : RequestMetrics
        Of the service itself.
    """

    def __init__(self, folder: RegistryReader, metrics: RequestMetrics) -> None:
        self.folder = folder
        self.metrics = metrics

    def health(self) -> Health:
        """Judge everything."""
        reading = Reading.of(self.folder)
        overview = reading.overview
        engines = {one.name: EngineHealth.of(one) for one in overview.engines}
        sound = overview.kill is None and all(one.healthy for one in engines.values())
        return Health(
            status="down" if reading.problem else "ok" if sound else "degraded",
            ts_ns=overview.now_ns,
            kill_switch=Kill.of(overview.kill),
            supervised=overview.supervised,
            problem=reading.problem,
            engines=engines,
        )

    def ask(self, command: CommandName, engine: str, who: str) -> CommandAnswer:
        """Pass a command on to the supervisor; the audit log has it before that.

        Raises
        ------
        HTTPException
            404 for an engine that is not there, 409 if no supervisor would do it.
        DataError
            If the registry cannot be used.
        """
        overview, registry = self.folder.overview(), self.folder.registry()
        if engine != ALL_ENGINES and overview.engine(engine) is None:
            registry.audit(who, command, engine, "refused: no such engine")
            raise HTTPException(404, _no_engine(engine, overview))
        if not overview.supervised:
            registry.audit(who, command, engine, "refused: no supervisor")
            raise HTTPException(
                409, "a supervisor must run to do this, none does: levibot live supervise"
            )
        registry.audit(who, command, engine, "asked")
        found = registry.command(registry.ask(command, engine, who))
        assert found is not None, "it was written a moment ago"
        return CommandAnswer.of(found)

    def kill(self, enabled: bool, why: str, who: str) -> KillAnswer:
        """Set or lift the kill switch.

        Setting does not wait for the audit log, lifting does.

        Raises
        ------
        DataError
            If the file cannot be made or removed, or a lifting cannot be written down.
        """
        if not enabled:
            self.folder.registry().audit(who, "kill off", ALL_ENGINES, why or "no reason given")
            lift_kill(self.folder.path)
            return KillAnswer(enabled=False, audited=True, note=_STAYS_HALTED)
        kill = Kill.of(set_kill(self.folder.path, who, why))
        audited = self.note(who, "kill on", ALL_ENGINES, why or "no reason given")
        return KillAnswer(**dict(kill), audited=audited, note=_STOPS)

    async def await_flat(self, answer: KillAnswer) -> KillAnswer:
        """Wait until every engine is flat, and name those that are not."""
        deadline = time.monotonic() + FLAT_SECS
        while True:
            reading = await asyncio.to_thread(Reading.of, self.folder)
            if reading.problem:
                note = f"{_STOPS}; which of them are flat is not known: {reading.problem}"
                return answer.model_copy(update={"note": note})
            if not (found := not_flat(reading.overview)):
                return answer
            if time.monotonic() >= deadline:
                return answer.model_copy(update={"note": _NOT_ALL_FLAT, "not_flat": found})
            await asyncio.sleep(0.1)

    def note(self, who: str, command: str, target: str, outcome: str) -> bool:
        """Write an audit line if that is possible; return whether it was."""
        try:
            self.folder.registry().audit(who, command, target, outcome)
        except DataError:
            return False
        return True


def create_app(state: FilePath, config: DoorConfig) -> ASGIApp:
    """Return the service for a state folder, behind its door.

    Parameters
    ----------
    state : Path
        The state folder; it need not be there yet.
    config : DoorConfig
        Who may come in.
    """
    metrics = RequestMetrics()
    service = Service(RegistryReader(state), metrics)

    def refused(client: str, what: str, why: str) -> None:
        service.note(f"api {client}", what[:100], "", f"refused: {why}"[:200])

    return Door(application(service), config, metrics, refused)


def application(service: Service) -> FastAPI:
    """Return the routes over a service, with nothing before them."""
    app = FastAPI(
        title="LeviBot",
        summary="Control and observation of live engines.",
        version="1",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        responses=_ALWAYS_POSSIBLE,
    )
    app.state.service = service
    app.add_exception_handler(DataError, _unusable)
    app.include_router(routes)
    return app


def _unusable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=503)


async def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


async def _who(request: Request) -> str:
    return f"api {client_of(request.scope)}"


def _no_engine(name: str, overview: Overview) -> str:
    known = ", ".join(one.name for one in overview.engines) or "none"
    return f"an engine must be one of the registry's ({known}), was {name}"


_ALWAYS_POSSIBLE: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "Wrong or missing token."},
    403: {"model": Problem, "description": "Without a token: not from this machine."},
    408: {"model": Problem, "description": "The body did not end."},
    413: {"model": Problem, "description": "The body is too large."},
    429: {"model": Problem, "description": "Too many requests; see Retry-After."},
    503: {"model": Problem, "description": "The state folder cannot be used."},
}
_COMMAND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such engine."},
    409: {"model": Problem, "description": "No supervisor runs."},
}

_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/plain": {"schema": {"type": "string"}}},
        "description": "Prometheus's text format.",
    }
}

ServiceOf = Annotated[Service, Depends(_service)]
Who = Annotated[str, Depends(_who)]
EngineName = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,32}$", examples=["BTCUSDT"])]

routes = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])


@routes.get("/healthz", responses={503: {"model": Health}}, tags=["observation"])
def healthz(service: ServiceOf, response: Response) -> Health:
    """Say whether everything that is wanted runs: 200 if so, else 503 with the problems."""
    health = service.health()
    response.status_code = 200 if health.status == "ok" else 503
    return health


@routes.get("/engines", tags=["engines"])
def engines(service: ServiceOf) -> list[Engine]:
    """List the engines."""
    return [Engine.of(one) for one in service.folder.overview().engines]


@routes.get("/engines/status", tags=["engines"])
def engines_status(service: ServiceOf) -> list[EngineDetail]:
    """Tell everything that is known of each engine."""
    return [EngineDetail.of(one) for one in service.folder.overview().engines]


@routes.post("/engines/{engine}/start", status_code=202, responses=_COMMAND, tags=["engines"])
def start_engine(engine: EngineName, service: ServiceOf, who: Who) -> CommandAnswer:
    """Ask the supervisor to start an engine."""
    return service.ask("start", engine, who)


@routes.post("/engines/{engine}/stop", status_code=202, responses=_COMMAND, tags=["engines"])
def stop_engine(engine: EngineName, service: ServiceOf, who: Who) -> CommandAnswer:
    """Ask the supervisor to stop an engine; its positions and stops stay at the exchange."""
    return service.ask("stop", engine, who)


@routes.post("/engines/{engine}/restart", status_code=202, responses=_COMMAND, tags=["engines"])
def restart_engine(engine: EngineName, service: ServiceOf, who: Who) -> CommandAnswer:
    """Ask the supervisor to stop an engine and start it again."""
    return service.ask("restart", engine, who)


@routes.get("/ml/predict", responses={404: {"model": Problem}}, tags=["model"])
def predict(service: ServiceOf, asked: Annotated[PredictQuery, Query()]) -> Predicted:
    """Return the newest prediction of each engine for a symbol or an instrument's id."""
    overview, symbol = service.folder.overview(), asked.symbol
    found = tuple(Prediction.of(one) for one in overview.predictions(symbol))
    if not found:
        known = sorted({one.instrument for one in overview.predictions()})
        raise HTTPException(
            404, f"a symbol must be one that is predicted ({', '.join(known)}), was {symbol!r}"
        )
    return Predicted(symbol=symbol, predictions=found)


@routes.get("/ml/model/status", tags=["model"])
def model_status(service: ServiceOf) -> list[ModelState]:
    """Tell which model each engine has, what was measured of it, and how its experts fare."""
    return [ModelState.of(one) for one in service.folder.overview().engines]


@routes.post("/ml/kill", tags=["control"])
async def kill(
    service: ServiceOf,
    who: Who,
    enabled: Annotated[bool, Query(description="true sets the kill switch, false lifts it.")],
    why: Annotated[str, Query(description="For the audit log; 200 characters are kept.")] = "",
) -> KillAnswer:
    """Set or lift the kill switch of all engines; the answer names those that are not flat yet.

    It waits for them for two seconds at most. Parameters it does not know do not matter.
    """
    # Not among the threads of the other routes, which a slow registry may hold up.
    answer = await asyncio.to_thread(service.kill, enabled, why[:200], who)
    return await service.await_flat(answer) if enabled else answer


@routes.post("/automation/start", status_code=202, responses=_COMMAND, tags=["control"])
def automation_start(service: ServiceOf, who: Who) -> CommandAnswer:
    """Ask the supervisor to start all engines."""
    return service.ask("start", ALL_ENGINES, who)


@routes.post("/automation/stop", status_code=202, responses=_COMMAND, tags=["control"])
def automation_stop(service: ServiceOf, who: Who) -> CommandAnswer:
    """Ask the supervisor to stop all engines; positions and stops stay at the exchange."""
    return service.ask("stop", ALL_ENGINES, who)


@routes.get("/automation/status", tags=["observation"])
def automation_status(service: ServiceOf) -> Automation:
    """Tell how all engines are together."""
    return Automation.of(service.folder.overview())


@routes.get("/automation/predictions", tags=["observation"])
def automation_predictions(service: ServiceOf) -> list[Prediction]:
    """Return the newest prediction of each engine for each instrument."""
    return [Prediction.of(one) for one in service.folder.overview().predictions()]


@routes.get("/commands/{number}", responses={404: {"model": Problem}}, tags=["control"])
def command(
    number: Annotated[int, Path(ge=1, le=2**63 - 1)],
    service: ServiceOf,
) -> CommandAnswer:
    """Tell what came of a command."""
    found = service.folder.registry().command(number)
    if found is None:
        raise HTTPException(404, f"a command must be one that was asked for, was {number}")
    return CommandAnswer.of(found)


@routes.get("/audit", tags=["control"])
def audit(service: ServiceOf, asked: Annotated[AuditQuery, Query()]) -> list[Audited]:
    """Return the newest lines of the audit log, the newest first."""
    return [Audited.of(one) for one in service.folder.registry().audited(asked.limit)]


@routes.get("/metrics", response_class=Response, responses=_METRICS, tags=["observation"])
def metrics(service: ServiceOf) -> Response:
    """Return everything as Prometheus metrics."""
    content = render(Reading.of(service.folder), service.metrics.registry)
    return Response(content, media_type=CONTENT_TYPE)
