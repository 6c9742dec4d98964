"""GET for readers that poll: bounded in time and size, and honest about clocks.

One request and no repetition: when to ask again is decided by whoever polls. Keys of paid services
come from the environment at each request, are sent and are shown nowhere.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from adapters.errors import AdapterError, NotFoundError, RefusedError, RetryableError
from adapters.http import PASSING_STATUSES, USER_AGENT, plain_reason, retry_after_secs
from adapters.polling_config import PollLimits, Source
from catalog.errors import ConfigError
from catalog.timestamps import NS_PER_SECOND

_CHUNK_BYTES = 1 << 14
"""Small, because a packed chunk may unpack to a thousand times as much before it is counted."""
_EXCERPT = 160
_BANNED = 418
"""Binance's word for an address that went on after 429; what it says of waiting is meant."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server said.

    Parameters
    ----------
    name : str
        Host and path, for messages; never the query, which may hold a key.
    body : bytes
        Unpacked; empty if nothing has changed since the last answer that was confirmed.
    arrived_ns : int
        Our clock when the last byte was there, UTC nanoseconds.
    server_ns : int or None
        The server's clock, UTC nanoseconds, cut to the second; None if it did not say.
    changed : bool
        False if the server says that nothing has changed (304).
    """

    name: str
    body: bytes
    arrived_ns: int
    server_ns: int | None
    changed: bool = True

    def json(self) -> Any:
        """Return the body as JSON.

        Raises
        ------
        RetryableError
            If it is none, such as the page of some proxy: that may pass.
        """
        try:
            return json.loads(self.body, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise RetryableError(
                f"{self.name}: must answer with JSON, was {self.body[:40]!r} ({error})"
            ) from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


class PollHttp:
    """The requests of one reader; belongs to one thread at a time.

    Parameters
    ----------
    limits : PollLimits
        Time and size.
    source : Source
        Names the keys in the environment.
    clock_ns : callable
        Our clock, UTC nanoseconds.

    Attributes
    ----------
    skew_ns : int or None
        How far the server's clock was ahead of ours at the last answer that said its time.
    """

    def __init__(self, limits: PollLimits, source: Source, clock_ns: Callable[[], int]) -> None:
        self._limits = limits
        self._source = source
        self._clock_ns = clock_ns
        self._session: requests.Session | None = None
        self._validators: dict[str, dict[str, str]] = {}
        self._unconfirmed: dict[str, dict[str, str]] = {}
        self._hidden: tuple[str, ...] = ()
        self.skew_ns: int | None = None
        self._says_time = False

    def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def get(
        self, url: str, params: Mapping[str, str | int] | None = None, *, conditional: bool = False
    ) -> HttpAnswer:
        """Return the answer to a GET.

        Parameters
        ----------
        url : str
            The address.
        params : mapping, optional
            The query, without keys.
        conditional : bool
            Whether to ask for what has changed since the last answer that `confirm` took.

        Raises
        ------
        RetryableError
            If it failed in a way that may pass.
        NotFoundError, RefusedError
            If the server refuses, or the body is too large.
        ConfigError
            If a key is not in the environment.
        """
        secrets = _secrets(self._source.query_from_env)
        headers = _secrets(self._source.headers_from_env)
        self._hidden = (*secrets.values(), *headers.values())
        name = _name(url)
        if conditional:
            headers |= self._validators.get(url, {})
        try:
            with self._open().get(
                url,
                params={**(params or {}), **secrets},
                headers=headers,
                stream=True,
                timeout=self._limits.timeout_secs,
                allow_redirects=not self._hidden,
            ) as response:
                return self._read(name, url, response)
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
        ) as error:
            raise RefusedError(f"{name}: address must be a full http(s) address") from error
        except (requests.exceptions.RequestException, HTTPError) as error:
            reason = self.hide(plain_reason(error))
            # The error's own text would show the query.
            raise RetryableError(f"{name}: the connection failed: {reason}") from None
        except OSError as error:
            raise RetryableError(f"{name}: the connection failed: {error.strerror}") from None

    def hide(self, text: str) -> str:
        """Return a text without the keys that were sent: a server may repeat them."""
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return text

    def confirm(self) -> None:
        """Take the last answers for good: from now on only what differs from them is asked for."""
        self._validators |= self._unconfirmed
        self._unconfirmed = {}

    def note_server_time(self, server_ns: int) -> None:
        """Take what a body says of the server's clock, which is finer than a header."""
        self.skew_ns, self._says_time = server_ns - self._clock_ns(), True

    def _open(self) -> requests.Session:
        if self._session is None:
            self._session = requests.Session()
            self._session.headers["User-Agent"] = USER_AGENT
            self._session.max_redirects = 3
        return self._session

    def _read(self, name: str, url: str, response: requests.Response) -> HttpAnswer:
        status = response.status_code
        unchanged = status == requests.codes.not_modified
        if not unchanged and status != requests.codes.ok:
            raise self._refusal(name, response)
        body = b"" if unchanged else self._body(name, response)
        arrived = self._clock_ns()
        server = _server_ns(response.headers.get("Date"))
        if server is not None and not self._says_time:
            # The header is cut to the second: its middle is the best guess.
            self.skew_ns = server + NS_PER_SECOND // 2 - arrived
        self._unconfirmed[url] = {
            asked: response.headers[said]
            for said, asked in (("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since"))
            if said in response.headers
        }
        return HttpAnswer(name, body, arrived, server, not unchanged)

    def _body(self, name: str, response: requests.Response) -> bytes:
        limits = self._limits
        give_up = time.monotonic() + limits.deadline_secs
        parts: list[bytes] = []
        size = 0
        # What is there and not a full chunk, or a body that drips would be waited for.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            size += len(chunk)
            if size > limits.max_bytes:
                raise RefusedError(
                    f"{name}: a body must have at most {limits.max_bytes:,} bytes, had more; raise "
                    "limits.max_bytes if that is how it should be"
                )
            if time.monotonic() > give_up:
                raise RetryableError(
                    f"{name}: a body must be there within {limits.deadline_secs:g} s, had "
                    f"{size:,} bytes by then"
                )
            parts.append(chunk)
        return b"".join(parts)

    def _refusal(self, name: str, response: requests.Response) -> AdapterError:
        status = response.status_code
        wait = retry_after_secs(response.headers.get("Retry-After"))
        if status in PASSING_STATUSES:
            return RetryableError(f"{name}: the server answered {status}", wait)
        if status == _BANNED:
            text = f"{name}: the server answered 418: it bans this address for asking too often"
            return RetryableError(text, max(wait or 0.0, self._limits.max_backoff_secs))
        try:
            excerpt = self._body(name, response)[:_EXCERPT].decode("utf-8", errors="replace")
        except (AdapterError, HTTPError):
            excerpt = ""
        said = f": {self.hide(' '.join(excerpt.split()))}" if excerpt.strip() else ""
        text = f"{name}: the server answered {status} {response.reason}{said}"
        if status == requests.codes.not_found:
            return NotFoundError(text)
        if response.is_redirect:
            text += "; redirects are not followed where a key is sent: name the new address"
        return RefusedError(text)


def _secrets(names: Mapping[str, str]) -> dict[str, str]:
    missing = [variable for variable in names.values() if not os.environ.get(variable)]
    if missing:
        raise ConfigError(
            f"keys of a polled service must be in the environment, lacked {', '.join(missing)}"
        )
    return {name: os.environ[variable] for name, variable in names.items()}


def _name(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}{parts.path}"


def _server_ns(header: str | None) -> int | None:
    if header is None:
        return None
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, TypeError):
        return None
    return int(moment.timestamp()) * NS_PER_SECOND if moment.tzinfo is not None else None
