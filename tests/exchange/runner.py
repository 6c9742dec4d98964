"""Three ways to have an exchange: in this event loop, in a thread, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from catalog.errors import RunFailedError
from tests.exchange.server import ExchangeServer
from tests.exchange.settings import ExchangeSettings

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 60.0


@contextlib.asynccontextmanager
async def running_exchange(
    settings: ExchangeSettings, *, port: int = 0
) -> AsyncIterator[ExchangeServer]:
    """Run an exchange in this event loop: ``async with running_exchange(settings) as exchange``."""
    server = ExchangeServer(settings, port)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Remote:
    """The control of an exchange by HTTP, from any process.

    Parameters
    ----------
    url : str
        Such as ``http://127.0.0.1:40123``.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer of a control path, such as ``state``.

        Raises
        ------
        RunFailedError
            If the exchange does not answer, or refuses.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/control/{path}", data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30.0) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            detail = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
            raise RunFailedError(
                f"the test exchange at {self.url} must answer /control/{path}, but: "
                f"{error} {detail}"
            ) from error

    def state(self) -> dict[str, Any]:
        """Return clock, steps and connections."""
        found: dict[str, Any] = self.call("GET", "state")
        return found

    def accounts(self) -> dict[str, Any]:
        """Return each account by its name: cash, positions, orders."""
        found: dict[str, Any] = self.call("GET", "accounts")
        return found

    def advance(self) -> dict[str, Any]:
        """Let one step happen; its ``step`` is None at the end of the market."""
        found: dict[str, Any] = self.call("POST", "advance")
        return found

    def fault(self, name: str, **details: Any) -> None:
        """Switch a fault on; see `tests.exchange.faults`."""
        self.call("POST", "fault", {"name": name, **details})

    def transfer(self, amount: float, account: str = "main", kind: str = "TRANSFER") -> None:
        """Pay into an account, or take out of it (below 0), USDT; `kind` in the venue's words."""
        self.call("POST", "transfer", {"amount": amount, "account": account, "kind": kind})

    def clear_faults(self) -> None:
        """End every fault."""
        self.call("DELETE", "fault")

    def pause(self) -> None:
        """Stop the market clock."""
        self.call("POST", "pause")

    def resume(self) -> None:
        """Let the market clock go on."""
        self.call("POST", "resume")


@contextlib.contextmanager
def threaded_exchange(settings: ExchangeSettings, *, port: int = 0) -> Iterator[Remote]:
    """Run an exchange in a thread; yield its control."""
    ready: queue.Queue[str | BaseException] = queue.Queue()
    ended: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        end = asyncio.Event()
        ended.append((asyncio.get_running_loop(), end))
        async with running_exchange(settings, port=port) as server:
            ready.put(server.url)
            await end.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=run, name="test exchange", daemon=True)
    thread.start()
    first = ready.get(timeout=_START_S)
    if isinstance(first, BaseException):
        raise first
    try:
        yield Remote(first)
    finally:
        loop, end = ended[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(timeout=10.0)


class ExchangeProcess:
    """An exchange in a process of its own, which can be killed and started again.

    Parameters
    ----------
    arguments : sequence of str
        Those of ``python -m tests.exchange``; ``--port`` is added.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self.remote = Remote("")

    @property
    def url(self) -> str:
        """Where it listens; the same after each start."""
        return self.remote.url

    @property
    def pid(self) -> int:
        """Its process; 0 if it does not run."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> Self:
        """Start it, on the port that it had before.

        Raises
        ------
        RunFailedError
            If it ends before it listens.
        """
        command = [sys.executable, "-m", "tests.exchange", *self._arguments]
        self._process = subprocess.Popen(
            [*command, "--port", str(self._port)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("http://"):
            code = self._process.wait()
            self._process.stdout.close()
            self._process = None
            raise RunFailedError(f"the test exchange must start, ended with {code}: {line!r}")
        self.remote = Remote(line.strip())
        self._port = int(line.strip().rsplit(":", 1)[1])
        return self

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(kill=True)

    def stop(self) -> None:
        """End it in order."""
        self._end(kill=False)

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        process.wait(timeout=20.0)
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *exception: object) -> None:
        """Stop."""
        self.stop()


def wait_for(what: Any, seconds: float, words: str) -> None:
    """Wait until a callable returns something true.

    Raises
    ------
    RunFailedError
        If it does not in time.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise RunFailedError(f"within {seconds:g} s {words} must have happened, but did not")
        time.sleep(0.02)
