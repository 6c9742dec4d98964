"""Kill a writer at every system call that changes the disk.

Run as ``python -m tests.catalog.killer SCENARIO TEMPLATE FOLDER STEP``: copies the catalog TEMPLATE
to FOLDER/0, FOLDER/STEP, … and in each copy lets a forked child do the scenario's work, which
SIGKILLs itself just before its n-th call of a function that changes the disk. Prints how many kills
there were and which calls they came before. The scenario ``committed`` only stops a writer between
its commit and the moving of its files, in FOLDER/committed; ``recover`` starts from there. A
process of its own, because it forks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from catalog.store import Catalog
from tests.catalog.builders import bars, funding, news, onchain

CHANGING = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync")


def before() -> list[Any]:
    return [bars(0, 8), onchain({"Flow": [1.0, 2.0]})]


def change() -> list[Any]:
    """Return an import that rewrites a file, restates, adds a vintage, a series, an instrument."""
    volume = bars(4, 8).columns["volume"].copy()
    volume[0] = 99.0
    later = onchain({"Flow": [1.0, 2.5, 3.0]}, vintage="2024-04", known_at=2 * 10**18)
    eth = funding(instrument="ETHUSDT-PERP.BINANCE")
    return [bars(4, 8, source="second.csv", volume=volume), later, eth, news()]


def write(path: Path) -> None:
    Catalog.open(path).ingest(change(), now=1_750_000_000_000_000_000)


def recover(path: Path) -> None:
    Catalog.open(path)


def commit_only(path: Path) -> None:
    """Stop between the commit and the moving of the files."""
    import catalog.ingest

    def stop(root: Path, manifest: Any) -> None:
        if (root / "staging").exists():
            os.kill(os.getpid(), signal.SIGKILL)

    catalog.ingest.settle = stop
    write(path)


SCENARIOS: dict[str, Callable[[Path], None]] = {"write": write, "recover": recover}


def die_at(fatal: int) -> None:
    """Make the n-th call that changes the disk fatal."""
    count = 0

    def wrap(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            reading = name == "open" and not (args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if not reading:
                if count == fatal:
                    os.write(1, f"{name}\n".encode())
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
            return function(*args, **kwargs)

        return counted

    for name in CHANGING:
        setattr(os, name, wrap(getattr(os, name), name))


def attempt(work: Callable[[Path], None], path: Path, fatal: int | None) -> bool:
    """Do the work in a child; return whether it was killed."""
    child = os.fork()
    if child == 0:
        if fatal is not None:
            die_at(fatal)
        work(path)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"the child failed with {os.WEXITSTATUS(status)} at call {fatal}")
    return os.WIFSIGNALED(status)


def main(scenario: str, template: Path, folder: Path, step: int) -> None:
    # Imported before the forks, so that the children need not.
    import nautilus_trader.model
    import nautilus_trader.persistence  # noqa: F401

    start = template
    if scenario != "write":
        start = folder / "committed"
        shutil.copytree(template, start)
        assert attempt(commit_only, start, None)
    kills, call = 0, 0
    while scenario in SCENARIOS:
        path = folder / str(call)
        shutil.copytree(start, path)
        if not attempt(SCENARIOS[scenario], path, call):
            break
        kills, call = kills + 1, call + step
    sys.stdout.write(json.dumps({"kills": kills}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
