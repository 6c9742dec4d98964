"""Errors that a user can act on.

LeviBotError                 something the user can put right; never shown as a traceback
├── ConfigError              a profile or an argument is wrong                      exit code 2
├── DataError                input or stored data is missing or unusable            exit code 3
├── IntegrityError           stored bytes are not what their record says they are   exit code 4
├── RunFailedError           a run ended, but must not be believed                  exit code 5
├── AuditFailedError         a proof (look-ahead, parity) found a difference        exit code 6
└── AwayError                an exchange or a network was away, nothing is wrong    exit code 7
"""

from __future__ import annotations


class LeviBotError(Exception):
    """A mistake or a condition that the user can put right.

    The message names the thing, the rule, the value received and what to do.
    """

    exit_code = 1


class ConfigError(LeviBotError):
    """A profile, an argument or a combination of settings is wrong."""

    exit_code = 2


class DataError(LeviBotError):
    """Input or stored data is missing, malformed or unusable for what was asked."""

    exit_code = 3


class IntegrityError(LeviBotError):
    """Stored bytes are not what their record says they are."""

    exit_code = 4


class RunFailedError(LeviBotError):
    """A run came to its end, but its result must not be believed."""

    exit_code = 5


class AuditFailedError(LeviBotError):
    """A proof found a difference: look-ahead, or backtest against live."""

    exit_code = 6


class AwayError(LeviBotError):
    """An exchange or a network was away for as long as one waits for it: try again later."""

    exit_code = 7
