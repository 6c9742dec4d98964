"""A process that writes trials to a ledger, to be killed: `trial_writer.py LEDGER FIRST LAST HOW`.

Prints the number of each trial once the ledger says that it is written. HOW is `whole`; or `torn`:
then it kills itself with half of its last line written; or `crowd`: then eight processes write at
once, each the trials of FIRST to LAST, which are 25 further on than those of the one before.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from research.trial_ledger import TrialLedger
from research.trials import Trial, TrialData, TrialResults

PADDING = "x" * 3000
"""What makes a line as long as that of a real profile."""


def numbered(number: int) -> Trial:
    """Return a trial that differs from others in its configuration and outcome."""
    return Trial(
        command={"name": "walkforward"},
        profile="p",
        config={"number": number, "padding": PADDING},
        data=TrialData("d", ("BTCUSDT-PERP.BINANCE",), "1h", 0, 100),
        code="0.1.0+abc",
        seed=7,
        results=TrialResults(days=9, sharpe=number / 1000.0, skew=0.0, kurtosis=3.0),
    )


def tear(descriptor: int, data: bytes) -> int:
    """Write half of the data and die, as a process does that is killed within a long write."""
    WRITE(descriptor, bytes(data)[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


WRITE = os.write


def write(ledger: TrialLedger, numbers: range, how: str) -> None:
    """Write trials one by one and tell of each."""
    for number in numbers:
        if how == "torn" and number == numbers[-1]:
            os.write = tear  # type: ignore[assignment]
        new = ledger.append([numbered(number)])
        sys.stdout.write(f"{number} {new}\n")
        sys.stdout.flush()


def crowd(ledger: TrialLedger, numbers: range) -> None:
    """Let eight processes write at once; forked, which spares each the imports."""
    children = []
    for one in range(8):
        child = os.fork()
        if child == 0:
            write(ledger, range(numbers.start + 25 * one, numbers.stop + 25 * one), "whole")
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    path, first, last, how = sys.argv[1:]
    wanted = range(int(first), int(last))
    if how == "crowd":
        crowd(TrialLedger(Path(path)), wanted)
    else:
        write(TrialLedger(Path(path)), wanted, how)
