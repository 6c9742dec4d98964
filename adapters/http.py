"""One HTTP client for history: polite, patient, and strict about what it got."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import requests
from pydantic import Field

from adapters.errors import AdapterError, NotFoundError, RefusedError, RetryableError
from catalog.config import Config

USER_AGENT = "levibot"
_CHUNK_BYTES = 1 << 18
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpConfig(Config):
    """How patient and how polite the client is.

    Parameters
    ----------
    timeout_secs : float
        Longest silence of the server before a request counts as lost.
    retries : int
        How often a request that failed in passing is repeated.
    backoff_secs : float
        Wait before the first repetition; it doubles with each.
    max_wait_secs : float
        Longest wait; a server that asks for more is given up.
    requests_per_second : float
        Requests started in one second, over all threads.
    """

    timeout_secs: float = Field(default=30.0, gt=0.0)
    retries: int = Field(default=5, ge=0)
    backoff_secs: float = Field(default=0.5, ge=0.0)
    max_wait_secs: float = Field(default=60.0, ge=0.0)
    requests_per_second: float = Field(default=10.0, gt=0.0)


class HttpClient:
    """GET with retries; safe to share between threads. Use as a context manager.

    Parameters
    ----------
    config : HttpConfig
        Limits and patience.
    sleep : callable or None
        Waits for some seconds; tests pass their own. None: waits, but no longer than to `cancel`.
    """

    def __init__(self, config: HttpConfig, sleep: Callable[[float], object] | None = None) -> None:
        self._config = config
        self._cancelled = threading.Event()
        self._sleep = self._cancelled.wait if sleep is None else sleep
        self._local = threading.local()
        self._lock = threading.Lock()
        self._sessions: list[requests.Session] = []
        self._next_start = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def cancel(self) -> None:
        """End all waiting and refuse further requests; from any thread."""
        self._cancelled.set()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()

    def text(self, url: str) -> str:
        """Return a small text.

        Raises
        ------
        NotFoundError
            If there is none (404).
        AdapterError
            If the server refuses, or still fails after all retries.
        """

        def attempt() -> str:
            with self._get(url) as response:
                return response.content.decode("utf-8", errors="replace")

        return self._patiently(url, attempt)

    def download(self, url: str, target: Path, sha256: str) -> None:
        """Store a file that has a known hash; `target` appears whole or not at all.

        Parameters
        ----------
        url : str
            Where it is.
        target : Path
            Where it goes.
        sha256 : str
            64 hex digits. A file with another hash is fetched again, then refused.

        Raises
        ------
        NotFoundError
            If there is none (404).
        AdapterError
            If the server refuses, still fails after all retries, or keeps sending other bytes.
        """
        part = target.with_name(target.name + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)

        def attempt() -> None:
            found = self._store(url, part)
            if found != sha256:
                raise RetryableError(
                    f"checksum must be {sha256[:16]}…, was {found[:16]}…: the file is corrupt"
                )
            part.replace(target)

        try:
            self._patiently(url, attempt)
        finally:
            part.unlink(missing_ok=True)

    def _store(self, url: str, part: Path) -> str:
        digest = hashlib.sha256()
        with self._get(url) as response, part.open("wb") as file:
            for chunk in response.iter_content(_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _patiently[T](self, url: str, attempt: Callable[[], T]) -> T:
        for tries in range(1, self._config.retries + 2):
            try:
                return attempt()
            except RetryableError as error:
                last = error
            if tries <= self._config.retries:
                self._sleep(self._wait(url, tries, last))
        raise AdapterError(f"{url}: gave up after {self._config.retries + 1} attempts; {last}")

    def _wait(self, url: str, tries: int, error: RetryableError) -> float:
        config = self._config
        if error.retry_after_secs is not None:
            if error.retry_after_secs > config.max_wait_secs:
                raise RefusedError(
                    f"{url}: the server asks to wait {error.retry_after_secs:g} s, longer than "
                    f"max_wait_secs={config.max_wait_secs:g}; try again later"
                ) from error
            return error.retry_after_secs
        # Threads that failed together must not return together: up to a quarter more wait.
        spread = 1.0 + (zlib.crc32(url.encode()) % 1000) / 4000
        return min(config.backoff_secs * 2.0 ** (tries - 1) * spread, config.max_wait_secs)

    @contextmanager
    def _get(self, url: str) -> Iterator[requests.Response]:
        """Send a request and translate whatever goes wrong, also while the body is read."""
        self._take_turn()
        if self._cancelled.is_set():
            raise RefusedError(f"{url}: not asked for, the work was cancelled")
        try:
            with self._session().get(
                url, stream=True, timeout=self._config.timeout_secs
            ) as response:
                _refuse_status(url, response)
                yield response
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
        ) as error:
            raise RefusedError(f"address must be a full http(s) address, was {url!r}") from error
        except requests.exceptions.RequestException as error:
            raise RetryableError(f"the connection failed: {plain_reason(error)}") from error
        except OSError as error:  # a full disk, not the network: requests has translated its own
            reason = error.strerror or str(error)
            raise RefusedError(f"{url}: storing it failed: {reason.lower()}") from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.headers["User-Agent"] = USER_AGENT
            with self._lock:
                self._sessions.append(session)
        return session

    def _take_turn(self) -> None:
        """Wait until a request may start."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 1.0 / self._config.requests_per_second
        if start > now:
            self._sleep(start - now)


def _refuse_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status == requests.codes.ok:
        return
    if status == requests.codes.not_found:
        raise NotFoundError(f"{url}: not found (404)")
    if status in PASSING_STATUSES:
        raise RetryableError(
            f"the server answered {status}", retry_after_secs(response.headers.get("Retry-After"))
        )
    raise RefusedError(f"{url}: the server answered {status} {response.reason}")


def retry_after_secs(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header: a number or an HTTP date."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def plain_reason(error: BaseException) -> str:
    """Return what went wrong in a few words: the innermost cause, without object addresses."""
    cause: BaseException = error
    while cause.__cause__ is not None or cause.__context__ is not None:
        following = cause.__cause__ or cause.__context__
        assert following is not None
        cause = following
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
