"""Find the Pythons of this machine: standard library only, nothing newer than Python 3.6."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

# The order of preference: 3.12 is what the lock is resolved for and what is tested most.
VERSIONS = ((3, 12), (3, 13), (3, 14))

PROBE = """
import sys, sysconfig
problem = ""
for module in ("bz2", "ctypes", "lzma", "sqlite3", "ssl", "zlib"):
    try:
        __import__(module)
    except ImportError:
        problem = "was built without the module " + module
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    problem = "is a free-threaded build"
if sys.version_info[3] != "final":
    problem = "is a pre-release"
if sys.implementation.name != "cpython":
    problem = "is not CPython"
print(sys.version_info[0], sys.version_info[1], sys.version_info[2], problem, sep="|")
"""


class SetupError(Exception):
    """The environment cannot be made; the text says what to do."""


class Interpreter(NamedTuple):
    """A Python found on this machine, and why it cannot be used ('' when it can)."""

    path: str
    version: Tuple[int, int, int]
    problem: str


def choose(found: List[Interpreter]) -> Optional[Interpreter]:
    """Return the usable interpreter of the most preferred version, the newest patch of it."""
    usable = [one for one in found if not one.problem]
    usable.sort(key=lambda one: (VERSIONS.index(one.version[:2]), -one.version[2]))
    return usable[0] if usable else None


def interpreters(environment: Dict[str, str]) -> Iterator[Interpreter]:
    """Yield every Python 3 found, usable or not; LEVIBOT_PYTHON alone where it is set."""
    named = environment.get("LEVIBOT_PYTHON")
    if named:
        one = probe(shutil.which(named, path=environment.get("PATH")) or named)
        if one is None or one.problem:
            reason = one.problem if one else "does not run"
            raise SetupError(
                f"LEVIBOT_PYTHON must be a usable Python >= 3.12, was {named}, which {reason}"
            )
        yield one
        return
    for path in python_paths(environment):
        one = probe(path)
        if one is not None:
            yield one


def python_paths(environment: Dict[str, str]) -> Iterator[str]:
    """Yield the paths of possible Pythons: on PATH, then under pyenv's versions.

    pyenv's shims on PATH fail for versions that are installed but not selected, so the folders
    of the versions are looked at themselves.
    """
    names = [f"python{major}.{minor}" for major, minor in VERSIONS] + ["python3", "python"]
    folders = [folder for folder in environment.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(environment.get("PYENV_ROOT") or str(home() / ".pyenv"))
    paths = [Path(folder) / name for name in names for folder in folders]
    paths += sorted(pyenv.glob("versions/3*/bin/python"))
    seen = set()
    for path in paths:
        # The same file may be meant twice, but shims and venvs are told apart by their own path.
        if path not in seen and os.access(str(path), os.X_OK):
            seen.add(path)
            yield str(path)


def probe(path: str) -> Optional[Interpreter]:
    """Ask an interpreter what it is; None where it does not run."""
    parts = (read_output([path, "-I", "-c", PROBE]) or "").strip().split("|")
    if len(parts) != 4:
        return None
    version = (int(parts[0]), int(parts[1]), int(parts[2]))
    problem = parts[3]
    if version[:2] not in VERSIONS:
        problem = "is Python {}.{}.{}".format(*version)
    return Interpreter(path, version, problem)


def home() -> Path:
    """Return the user's folder, or the root where there is none (a container's bare user id)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def read_output(command: List[str], environment: Optional[Dict[str, str]] = None) -> Optional[str]:
    """Return what a command prints, or None where it does not run, fails or hangs."""
    try:
        output = subprocess.check_output(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return output.decode("utf-8", "replace")
