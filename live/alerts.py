"""Alerts to people through apprise: Telegram, Slack, e-mail and a hundred others.

The addresses hold passwords and tokens: they come from the environment only and are never shown. A
channel that fails is tried again and counted; nobody waits for it. What repeats is told once in a
while with its number, many are told in one message, and there is a limit on all messages together:
whoever gets two hundred at night reads none. Nothing is lost by that: what is held back is told
later, and the grave ones (`GRAVE`) know no limit.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from catalog.errors import ConfigError
from live.masking import masked

ALERT_URLS = "LEVIBOT_ALERT_URLS"
"""Environment variable: addresses of apprise, with blanks between them."""

type AlertKind = Literal[
    "crash", "restart", "permanent_stop", "guard", "stale_data", "naked_position",
    "kill_switch", "global_risk", "supervisor", "blocked",
]  # fmt: skip
type Severity = Literal["info", "warning", "failure"]

_SEVERITIES = ("info", "warning", "failure")

_SEVERITY: dict[str, Severity] = {
    "restart": "info",
    "stale_data": "warning",
    "guard": "warning",
    "blocked": "warning",
}
GRAVE: frozenset[AlertKind] = frozenset(
    {"permanent_stop", "guard", "naked_position", "kill_switch", "global_risk", "supervisor"}
)
"""Kinds that the limit on all messages together does not hold back."""
_BUNDLED_FROM, _BUNDLED_MOST = 6, 20
_MOST_CHARS, _MOST_LINE_CHARS = 1_000, 160


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
            for server in self._apprise:
                if server.overflow_mode == apprise.OverflowMode.UPSTREAM:
                    # A messenger refuses what is too long for it, with all that it says.
                    server.overflow_mode = apprise.OverflowMode.SPLIT
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
        Messages,
    within_secs : float
        in that time; those of `GRAVE` kinds are sent beyond it.
    retry_secs : tuple of float
        Delays before a failed message is tried again.
    pause_secs : float
        How long a channel that failed all the same is left alone; then all that waits is told.
    """

    repeat_secs: float = 300.0
    most: int = 30
    within_secs: float = 600.0
    retry_secs: tuple[float, ...] = (2.0, 10.0)
    pause_secs: float = 60.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What is to be told of one kind of one engine.

    The newest alert, when it came, how many there were since the last message, and how often a
    message with it has failed.
    """

    alert: Alert
    at: float
    count: int = 1
    failures: int = 0

    def text(self, now: float, most_chars: int) -> str:
        """Return the alert's text, with the number of those before it and its age."""
        more = self.count - 1
        number = f" ({more} more of this kind since the last message)" if more else ""
        minutes = (now - self.at) / 60.0
        age = f" ({minutes:.0f} min ago)" if minutes >= 1.0 else ""
        said = self.alert.text
        return (said if len(said) <= most_chars else f"{said[:most_chars]} …") + number + age


class Message(NamedTuple):
    """What is sent at once: one alert, or many that have come together."""

    title: str
    body: str
    severity: Severity
    told: tuple[_Waiting, ...]


@dataclass(slots=True)
class AlertGate:
    """Decides what is sent and when; pure, told the time in seconds on a monotonic clock.

    It keeps one alert of each kind and engine, so it never grows large and drops nothing.
    """

    limits: AlertLimits = field(default_factory=AlertLimits)
    _waiting: dict[tuple[str, str], _Waiting] = field(default_factory=dict)
    _told: dict[tuple[str, str], float] = field(default_factory=dict)
    _sent: collections.deque[float] = field(default_factory=collections.deque)
    _paused_until: float = -1e18

    def take(self, alert: Alert, now: float) -> None:
        """Take an alert."""
        key = (alert.kind, alert.engine)
        before = self._waiting.pop(key, None)
        found = _Waiting(alert, now)
        if before is not None:
            found = replace(found, count=before.count + 1, failures=before.failures)
        self._waiting[key] = found

    def message(self, now: float, *, ending: bool = False) -> Message | None:
        """Return what is to be sent now, None if nothing is; then say what came of it.

        Parameters
        ----------
        now : float
            The time.
        ending : bool
            Whether there will be no later: nothing is held back.
        """
        ready = sorted(self._ready(now, ending), key=_rank)
        if not ready:
            return None
        told = tuple(ready[: _BUNDLED_MOST if len(ready) >= _BUNDLED_FROM else 1])
        for one in told:
            del self._waiting[(one.alert.kind, one.alert.engine)]
        return _message(told, now)

    def arrived(self, message: Message, now: float) -> None:
        """Take note that a message has arrived."""
        self._sent.append(now)
        self._told |= {(one.alert.kind, one.alert.engine): now for one in message.told}

    def failed(self, message: Message, now: float) -> None:
        """Keep what a message would have told, and leave the channel alone for a while."""
        self._paused_until = now + self.limits.pause_secs
        for one in message.told:
            key = (one.alert.kind, one.alert.engine)
            newer = self._waiting.get(key)
            kept = replace(one, failures=one.failures + 1)
            if newer is not None:
                count = newer.count + one.count
                kept = replace(newer, count=count, failures=kept.failures)
            self._waiting[key] = kept

    def _ready(self, now: float, ending: bool) -> list[_Waiting]:
        if ending:
            return list(self._waiting.values())
        if now < self._paused_until:
            return []
        while self._sent and now - self._sent[0] >= self.limits.within_secs:
            self._sent.popleft()
        room = len(self._sent) < self.limits.most
        return [
            one
            for key, one in self._waiting.items()
            if (room or one.alert.kind in GRAVE)
            and now - self._told.get(key, -1e18) >= self.limits.repeat_secs
        ]


def _rank(one: _Waiting) -> tuple[int, bool, float]:
    """Order what is told: what no server takes must hold up nothing; the grave first."""
    return one.failures, one.alert.kind not in GRAVE, one.at


def _message(told: tuple[_Waiting, ...], now: float) -> Message:
    if len(told) == 1:
        alert = told[0].alert
        title = f"{alert.engine}: {_words(alert.kind)}"
        return Message(title, told[0].text(now, _MOST_CHARS), alert.severity, told)
    lines = (
        f"{one.alert.engine}: {_words(one.alert.kind)}: {one.text(now, _MOST_LINE_CHARS)}"
        for one in told
    )
    gravest = max((one.alert.severity for one in told), key=_SEVERITIES.index)
    return Message(f"{len(told)} alerts", "\n".join(lines), gravest, told)


def _words(kind: str) -> str:
    return kind.replace("_", " ")


class AlertSender:
    """Sends alerts from threads of its own, one for each channel; never raises, never waits.

    Secrets of the environment are masked here, whoever made the text.

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
        """Return how many times a message did not arrive after all tries."""
        return sum(one.failed for one in self._lines)

    def tell(self, alert: Alert) -> None:
        """Have people told."""
        if self._lines:
            alert = alert._replace(text=masked(alert.text))
        for line in self._lines:
            line.tell(alert)

    def close(self, timeout_secs: float = 5.0) -> None:
        """Send what waits, once, also what was held back, and end."""
        for line in self._lines:
            line.end()
        deadline = time.monotonic() + timeout_secs
        for line in self._lines:
            line.join(max(0.0, deadline - time.monotonic()))


_LOOK_SECS = 1.0


class _Line:
    """One channel with what it is to send and its thread; parameters as of `AlertSender`."""

    def __init__(self, channel: Channel, limits: AlertLimits, where: str) -> None:
        self.sent = self.failed = 0
        self._channel = channel
        self._limits = limits
        self._gate = AlertGate(limits)
        self._lock = threading.Lock()
        self._where = where
        self._come = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def tell(self, alert: Alert) -> None:
        """Take an alert."""
        with self._lock:
            self._gate.take(alert, time.monotonic())
        self._come.set()

    def end(self) -> None:
        """End once nothing waits; nothing is tried twice any more."""
        self._ending.set()
        self._come.set()

    def join(self, timeout_secs: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout_secs)

    def _run(self) -> None:
        while True:
            # Also where nothing comes: what was held back may be told by now.
            self._come.wait(_LOOK_SECS)
            self._come.clear()
            ending = self._ending.is_set()
            while (message := self._next(ending)) is not None:
                arrived = self._arrives(message)
                ending = self._ending.is_set()
                with self._lock:
                    if arrived:
                        self.sent += 1
                        self._gate.arrived(message, time.monotonic())
                    else:
                        self.failed += 1
                        if not ending:
                            self._gate.failed(message, time.monotonic())
            if ending:
                return

    def _next(self, ending: bool) -> Message | None:
        with self._lock:
            return self._gate.message(time.monotonic(), ending=ending)

    def _arrives(self, message: Message) -> bool:
        title = " ".join(f"LeviBot {self._where} {message.title}".split())
        for delay in (*self._limits.retry_secs, None):
            try:
                arrived = self._channel.send(title, message.body, message.severity)
            except Exception:
                # Whatever a channel raises may hold its address: it is counted, not shown.
                arrived = False
            if arrived:
                return True
            if delay is None or self._ending.wait(delay):
                break
        return False


def channels_from(variables: Mapping[str, str] | None = None) -> tuple[AppriseChannel, ...]:
    """Return the channels that the environment names; () if it names none.

    Raises
    ------
    ConfigError
        If an address is none that apprise knows.
    """
    text = (os.environ if variables is None else variables).get(ALERT_URLS, "")
    return tuple(AppriseChannel(url, number) for number, url in enumerate(text.split(), start=1))


type Sink = Callable[[Alert], Any]
"""Takes an alert: `AlertSender.tell`, or a list's `append`."""
