"""Alerts to people through apprise: Telegram, Slack, e-mail and a hundred others.

The addresses hold passwords and tokens: they come from the environment only and are never shown. A
channel that fails is tried again and counted; nobody waits for it. What repeats is told once in a
while with its number, and there is a limit on all alerts together: whoever gets two hundred at
night reads none.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from catalog.errors import ConfigError

ALERT_URLS = "LEVIBOT_ALERT_URLS"
"""Environment variable: addresses of apprise, with blanks between them."""

type AlertKind = Literal[
    "crash", "restart", "permanent_stop", "guard", "stale_data", "naked_position",
    "kill_switch", "global_risk", "supervisor", "blocked",
]  # fmt: skip
type Severity = Literal["info", "warning", "failure"]

_SEVERITY: dict[str, Severity] = {
    "restart": "info",
    "stale_data": "warning",
    "guard": "warning",
    "blocked": "warning",
}
_MOST_QUEUED = 500


class Alert(NamedTuple):
    """Something that a person should know now."""

    kind: AlertKind
    engine: str
    text: str

    @property
    def severity(self) -> Severity:
        """Return how grave it is."""
        return _SEVERITY.get(self.kind, "failure")


class Channel(Protocol):
    """Where alerts go."""

    def send(self, title: str, body: str, severity: Severity) -> bool:
        """Send a message and return whether it has arrived; may take seconds, may raise."""


class AppriseChannel:
    """One address of apprise.

    Parameters
    ----------
    url : str
        The address. It is never shown.
    number : int
        Its place among the addresses, for messages.

    Raises
    ------
    ConfigError
        If apprise does not know what to do with it.
    """

    def __init__(self, url: str, number: int) -> None:
        # It would print the address of what it could not reach.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            # Its plugins import modules that newer Pythons do not have; it knows.
            warnings.simplefilter("ignore", DeprecationWarning)
            # Late: only who alerts pays for it.
            import apprise

            self._apprise = apprise.Apprise()
            known = self._apprise.add(url)
        if not known:
            raise ConfigError(
                f"address {number} of {ALERT_URLS} must be one that apprise knows, such as "
                "tgram://token/chat or mailto://..., was not (it is not shown, as it may hold a "
                "password)"
            )

    def __repr__(self) -> str:
        return "AppriseChannel(***)"

    def send(self, title: str, body: str, severity: Severity) -> bool:
        """Send a message; takes a few seconds where nobody answers."""
        return bool(self._apprise.notify(body=body, title=title, notify_type=severity))


@dataclass(frozen=True, slots=True)
class AlertLimits:
    """How often people are told.

    Parameters
    ----------
    repeat_secs : float
        The same kind of the same engine is told once in that time.
    most : int
        Alerts of all kinds,
    within_secs : float
        in that time.
    retry_secs : tuple of float
        Delays before a failed message is tried again.
    """

    repeat_secs: float = 300.0
    most: int = 30
    within_secs: float = 600.0
    retry_secs: tuple[float, ...] = (2.0, 10.0)


@dataclass(slots=True)
class AlertGate:
    """Decides which alerts pass; pure, told the time in seconds on a monotonic clock."""

    limits: AlertLimits = field(default_factory=AlertLimits)
    _told: dict[tuple[str, str], float] = field(default_factory=dict)
    _held: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    _sent: collections.deque[float] = field(default_factory=collections.deque)
    _dropped: int = 0

    def passes(self, alert: Alert, now: float) -> str | None:
        """Return the text that is to be sent, or None if the alert is held back."""
        key = (alert.kind, alert.engine)
        last = self._told.get(key)
        if last is not None and now - last < self.limits.repeat_secs:
            self._held[key] += 1
            return None
        while self._sent and now - self._sent[0] >= self.limits.within_secs:
            self._sent.popleft()
        if len(self._sent) >= self.limits.most:
            self._dropped += 1
            return None
        self._sent.append(now)
        self._told[key] = now
        text = alert.text
        held, dropped = self._held.pop(key, 0), self._dropped
        if held:
            text += f" ({held} more of this kind since the last message)"
        if dropped:
            self._dropped = 0
            text += f" ({dropped} other alert(s) were held back: too many)"
        return text


class AlertSender:
    """Sends alerts from threads of its own, one for each channel; never raises, never waits.

    Parameters
    ----------
    channels : sequence of Channel
        Where alerts go; without any nothing is sent.
    limits : AlertLimits
        How often people are told.
    where : str
        Part of every title, such as the host's name.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        limits: AlertLimits | None = None,
        where: str = "",
    ) -> None:
        used = limits or AlertLimits()
        # One that hangs holds up no other.
        self._lines = tuple(_Line(one, used, where) for one in channels)

    @property
    def channels(self) -> int:
        """Return how many channels there are."""
        return len(self._lines)

    @property
    def sent(self) -> int:
        """Return how many messages have arrived, over all channels."""
        return sum(one.sent for one in self._lines)

    @property
    def failed(self) -> int:
        """Return how many did not arrive after all tries."""
        return sum(one.failed for one in self._lines)

    @property
    def dropped(self) -> int:
        """Return for how many there was no room."""
        return sum(one.dropped for one in self._lines)

    def tell(self, alert: Alert) -> None:
        """Have people told."""
        for line in self._lines:
            line.tell(alert)

    def close(self, timeout_secs: float = 5.0) -> None:
        """Send what waits, once, and end."""
        for line in self._lines:
            line.end()
        deadline = time.monotonic() + timeout_secs
        for line in self._lines:
            line.join(max(0.0, deadline - time.monotonic()))


class _Line:
    """One channel with its queue and its thread; parameters as of `AlertSender`."""

    def __init__(self, channel: Channel, limits: AlertLimits, where: str) -> None:
        self.sent = self.failed = self.dropped = 0
        self._channel = channel
        self._limits = limits
        self._gate = AlertGate(limits)
        self._where = where
        self._queue: queue.Queue[Alert | None] = queue.Queue(_MOST_QUEUED)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def tell(self, alert: Alert) -> None:
        """Take an alert; one that does not fit is counted."""
        try:
            self._queue.put_nowait(alert)
        except queue.Full:
            self.dropped += 1

    def end(self) -> None:
        """End once the queue is empty; nothing is tried twice any more."""
        self._ending.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def join(self, timeout_secs: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout_secs)

    def _run(self) -> None:
        while (alert := self._queue.get()) is not None:
            text = self._gate.passes(alert, time.monotonic())
            if text is not None:
                title = f"LeviBot {self._where} {alert.engine}: {alert.kind.replace('_', ' ')}"
                self._send(" ".join(title.split()), text, alert.severity)

    def _send(self, title: str, text: str, severity: Severity) -> None:
        for delay in (*self._limits.retry_secs, None):
            try:
                arrived = self._channel.send(title, text, severity)
            except Exception:
                # Whatever a channel raises may hold its address: it is counted, not shown.
                arrived = False
            if arrived:
                self.sent += 1
                return
            if delay is None or self._ending.wait(delay):
                break
        self.failed += 1


def channels_from(variables: Mapping[str, str] | None = None) -> tuple[AppriseChannel, ...]:
    """Return the channels that the environment names; () if it names none.

    Raises
    ------
    ConfigError
        If an address is none that apprise knows.
    """
    text = (os.environ if variables is None else variables).get(ALERT_URLS, "")
    return tuple(AppriseChannel(url, number) for number, url in enumerate(text.split(), start=1))


def masked(text: str, variables: Mapping[str, str] | None = None) -> str:
    """Return a text without the secrets that the environment holds.

    Parameters
    ----------
    text : str
        Such as the last line that a process printed.
    variables : mapping, optional
        The environment.
    """
    found = os.environ if variables is None else variables
    for name, value in found.items():
        if any(word in name for word in _SECRET_WORDS) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text


_SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "PASSWORD", ALERT_URLS)
_SHORTEST_SECRET = 8

type Sink = Callable[[Alert], Any]
"""Takes an alert: `AlertSender.tell`, or a list's `append`."""
