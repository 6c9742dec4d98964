"""Compiled kernels, kept in a folder that is named after the sources they were compiled from.

numba's own cache looks at the time stamp of one file only: a change in a helper that lives in
another file, or a file restored with its old stamp, runs yesterday's machine code against
today's Python, and live and backtest part without a word. Here a kernel is read from the cache
only if the hash of the whole source, of this file and of the compiler's version is the same.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from research import kernels
from research.groups import driver
from research.groups.registry import GroupUse

CACHE_VARIABLE = "LEVIBOT_CACHE_DIR"
_compiling = threading.Lock()
_registered: set[Callable[..., Any]] = set()  # helpers which several kernels share


@dataclass(frozen=True, slots=True)
class CompiledKernels:
    """The two entry points, compiled: see `kernels.step` and `kernels.run`."""

    step: Callable[..., None]
    run: Callable[..., int]


def source_hash(*modules: ModuleType) -> str:
    """Return the SHA-256 of the modules' sources, as 64 hex digits."""
    digest = hashlib.sha256()
    for module in modules:
        assert module.__file__ is not None
        source = Path(module.__file__).read_bytes()
        digest.update(f"{len(source)}:".encode() + source)
    return digest.hexdigest()


def cache_folder(*modules: ModuleType) -> Path:
    """Return where the compiled forms of these modules are kept.

    The root is the environment variable ``LEVIBOT_CACHE_DIR``, else the user's cache folder.
    """
    root = os.environ.get(CACHE_VARIABLE)
    if root is None:
        home = os.environ.get("XDG_CACHE_HOME")
        root = str((Path(home) if home else Path.home() / ".cache") / "levibot")
    tools = f"{version('numba')} {version('llvmlite')} {version('numpy')} {sys.version}"
    sources = source_hash(*modules, sys.modules[__name__])
    name = hashlib.sha256(f"{tools} {sources}".encode()).hexdigest()[:16]
    return Path(root) / f"kernels-{name}"


def compile_entry_points(module: ModuleType) -> dict[str, Any]:
    """Compile what a module lists as `ENTRY_POINTS`, with the helpers it lists as `HELPERS`.

    Compilation itself happens at the first call of each, or is read from the cache then.
    """
    return _compiled(module.ENTRY_POINTS, module.HELPERS, (module,), is_counted=True)


def _compiled(
    functions: Sequence[Callable[..., Any]],
    helpers: Sequence[Callable[..., Any]],
    sources: Sequence[ModuleType],
    *,
    is_counted: bool,
) -> dict[str, Any]:
    """Compile functions that call `helpers`, kept under the hash of `sources`.

    Kernels of features make no arrays, so that numba need not count references to those they are
    given (`is_counted` false). It takes a third of the time: an atomic operation for every row
    that is looked at.
    """
    from numba import njit
    from numba.extending import register_jitable

    for helper in helpers:
        if helper not in _registered:
            # Across a call numba would count references as well: 40 % of the time.
            slices = {"_nrt": True} if _full_name(helper) in _SLICING else {}
            register_jitable(forceinline=True, **slices)(helper)
            _registered.add(helper)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": is_counted}
    with _caching_in(cache_folder(*sources)) as is_cached:
        return {
            function.__name__: njit(cache=is_cached, **options)(function) for function in functions
        }


# numba will not compile what returns a row or assigns a slice unless references are counted in
# there; arrays that came without a count have none there either.
_SLICING = frozenset({"research.kernel_tools.carried", "research.groups.timeframes.write"})


def _full_name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


@cache
def compiled_kernels() -> CompiledKernels:
    """Return the compiled forms of `research.kernels`, made once per process."""
    compiled = _compiled(
        kernels.ENTRY_POINTS, kernels.HELPERS, (kernels, *kernels.SOURCES), is_counted=False
    )
    return CompiledKernels(**compiled)


@cache
def compiled_group(name: str) -> Callable[..., int]:
    """Return the compiled loop of a group of features, made once per process.

    Parameters
    ----------
    name : str
        Name of the group's module; see `research.groups.driver.make_run` for the loop.
    """
    use = GroupUse(name, ())
    module = use.module
    take = getattr(module, "take", driver.take_nothing)
    run = driver.make_run(take, getattr(module, "take_run", driver.take_no_run), module.step)
    helpers: Sequence[Callable[..., Any]] = (
        kernels.gather,
        kernels.passed,
        driver.next_input,
        driver.known_end,
        driver.take_nothing,
        driver.take_no_run,
        *module.HELPERS,
    )
    compiled: Callable[..., int] = _compiled((run,), helpers, use.sources, is_counted=False)["run"]
    return compiled


@contextmanager
def _caching_in(folder: Path) -> Iterator[bool]:
    """Let numba keep what is decorated inside in a folder; yield whether it can be written."""
    import numba

    config: Any = numba.config
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        warnings.warn(
            f"{folder} must be writable to keep compiled kernels; they are compiled again in "
            f"every process. Set {CACHE_VARIABLE} to a folder that is.",
            RuntimeWarning,
            stacklevel=4,
        )
        yield False
        return
    with _compiling:
        # numba fixes a function's cache folder when it is decorated, not when it is compiled.
        before = config.CACHE_DIR
        config.CACHE_DIR = str(folder)
        try:
            yield True
        finally:
            config.CACHE_DIR = before
