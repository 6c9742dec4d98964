"""Catalogs on object stores: pushed to a URL, and read through a mirror on this machine.

``s3://bucket/catalog`` holds what a catalog's folder holds: the files and, written last, the commit
record that names them with their hashes. Reading brings the newest state to a folder of this
machine first, only the files that are not there yet, each checked against its hash; from then on it
is a catalog like any other, mapped and read by the engine where it lies. Writing goes the other
way: a catalog is made in a folder and pushed, the record last, so that whoever reads meanwhile has
the state before or the one after. One writer at a time is the writer's own care: object stores have
no locks.

URLs are those of `pyarrow.fs` (``s3``, ``gs``, ``file``; ``s3://bucket/catalog?region=eu-west-1``,
``endpoint_override=host:port&scheme=http`` for stores other than Amazon's), and, after ``fsspec+``,
those of fsspec. Credentials come from where these libraries look (environment, profile, role).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.manifest import FOLDER, FileRecord, Manifest
from catalog.progress import Progress, no_progress
from catalog.transactions import (
    LOCK_TIMEOUT_SECS,
    commit,
    digest_of,
    locked,
    newest,
    read_file,
    settle,
    stage,
)

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

CACHE_VARIABLE = "LEVIBOT_CACHE"
"""Environment variable that names the folder of mirrors; else ``levibot`` in the user's cache."""
_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/{1,3}(?=[^/])")
_TRIES = 3


def remote_url(path: Path | str) -> str | None:
    """Return the URL that a catalog's name is; None for a folder.

    A `Path` of a URL has lost a slash, which is given back.
    """
    text = str(path)
    found = _URL.match(text)
    if found is None:
        return None
    slashes = "///" if found[1] == "file" else "//"
    return f"{found[1]}:{slashes}{text[found.end() :]}"


def mirror_of(url: str) -> Path:
    """Return the folder of this machine that mirrors a catalog; it need not be there."""
    named = os.environ.get(CACHE_VARIABLE)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(named) if named else Path(cache) / "levibot"
    return root / "catalogs" / hashlib.sha256(url.encode()).hexdigest()[:24]


def fetch_catalog(url: str, *, progress: Progress = no_progress) -> Path:
    """Bring the newest state of a catalog to this machine and return its folder.

    Parameters
    ----------
    url : str
        Such as ``s3://bucket/catalog``.
    progress : Progress
        Told of the stage ``fetch``, in files.

    Raises
    ------
    ConfigError
        If the URL is not one of a known kind.
    DataError
        If there is no catalog, it cannot be read, or it is older than what was read before.
    IntegrityError
        If a file is not what the record says.
    """
    store, base = _opened(url)
    root = mirror_of(url)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root, LOCK_TIMEOUT_SECS):
        for attempt in range(_TRIES):
            manifest = _reached(url, lambda: _newest(store, base))
            if manifest is None:
                raise DataError(
                    f"{url} must hold a catalog that `levibot data push` has written, holds none"
                )
            try:
                _reached(url, partial(_bring, store, base, root, manifest, progress))
                break
            except (IntegrityError, DataError):
                # A push may have replaced a file since: the record after it names the new one.
                if attempt == _TRIES - 1 or _newest(store, base) == manifest:
                    raise
    return root


def push_catalog(root: Path, url: str, *, progress: Progress = no_progress) -> int:
    """Write a catalog's newest state to a URL, and return how many files were sent.

    Parameters
    ----------
    root : Path
        Folder of the catalog.
    url : str
        Where to; empty, or an earlier state of the same catalog.
    progress : Progress
        Told of the stage ``push``, in files.

    Raises
    ------
    ConfigError
        If the URL is not one of a known kind.
    DataError
        If there is no catalog in the folder, what is there is not an earlier state of it, or it
        cannot be written.
    IntegrityError
        If a file of the folder is not what its record says.
    """
    store, base = _opened(url)
    manifest = newest(root)
    if manifest is None:
        raise DataError(f"catalog must be a folder with a commit, was {str(root)!r}, without one")
    there = _reached(url, lambda: _newest(store, base))
    if there is not None and not _continues(manifest, there):
        raise DataError(
            f"{url} must hold nothing or an earlier state of {root}, holds commit "
            f"{there.sequence} of another history; push to another URL, or fetch that one first"
        )
    kept = {} if there is None else _digests(there)
    files = [file for file in manifest.files() if kept.get(file.path) != file.sha256]
    for done, file in enumerate(files):
        progress("push", done, len(files))
        data = read_file(root, manifest, file)
        _reached(url, partial(_write, store, f"{base}/{file.path}", data))
    record = f"{base}/{FOLDER}/{manifest.sequence:08d}.json"
    _reached(url, lambda: _write(store, record, manifest.to_bytes()))
    progress("push", len(files), len(files))
    return len(files)


def _bring(
    store: FileSystem, base: str, root: Path, manifest: Manifest, progress: Progress
) -> None:
    """Make the mirror's state that of a record, whole or not at all; needs the lock."""
    here = newest(root)
    before = {} if here is None else _digests(here)
    wanted = _digests(manifest)
    if before == wanted:
        return
    if here is not None and here.sequence >= manifest.sequence:
        raise DataError(
            f"commit {manifest.sequence} must come after commit {here.sequence}, which was read "
            f"before; another catalog lies there now: remove the mirror {root} and read again"
        )
    files = [file for file in manifest.files() if before.get(file.path) != file.sha256]
    for done, file in enumerate(files):
        progress("fetch", done, len(files))
        data = _read(store, f"{base}/{file.path}")
        _check(file, data)
        stage(root, manifest.sequence, file.path, data)
    retired = tuple(sorted(before.keys() - wanted.keys()))
    state = replace(manifest, retired=retired)
    commit(root, state)
    settle(root, state)
    progress("fetch", len(files), len(files))


def _check(file: FileRecord, data: bytes) -> None:
    if digest_of(data) != file.sha256:
        raise IntegrityError(
            f"file {file.path} must have the SHA-256 {file.sha256[:16]}… of its commit record, has "
            f"{digest_of(data)[:16]}…; push the catalog again"
        )


def _continues(manifest: Manifest, there: Manifest) -> bool:
    """Return whether a state came after another of the same catalog, or is the same."""
    earlier = len(there.commits)
    return manifest.sequence >= there.sequence and manifest.commits[:earlier] == there.commits


def _digests(manifest: Manifest) -> dict[str, str]:
    return {file.path: file.sha256 for file in manifest.files()}


def _opened(url: str) -> tuple[FileSystem, str]:
    """Return the store that a URL names, and the folder in it."""
    import pyarrow as pa
    from pyarrow.fs import FileSystem

    try:
        store, base = FileSystem.from_uri(url)
    except (pa.ArrowException, ImportError, OSError, ValueError) as error:
        raise ConfigError(
            f"catalog must be a folder or a URL such as s3://bucket/catalog, was {url!r} ({error})"
        ) from error
    return store, base.rstrip("/")


def _reached[T](url: str, call: Callable[[], T]) -> T:
    """Do something with a store; name it where it fails."""
    try:
        return call()
    except OSError as error:
        raise DataError(
            f"{url} must be a store that answers and a catalog that is whole, failed: {error}; "
            "look at the address, the credentials and the region"
        ) from error


def _newest(store: FileSystem, base: str) -> Manifest | None:
    from pyarrow.fs import FileSelector

    found = store.get_file_info(FileSelector(f"{base}/{FOLDER}", allow_not_found=True))
    names = sorted(one.path for one in found if one.is_file and one.path.endswith(".json"))
    if not names:
        return None
    return Manifest.from_bytes(_read(store, names[-1]), PurePosixPath(names[-1]).name)


def _read(store: FileSystem, path: str) -> bytes:
    with store.open_input_stream(path) as stream:
        data: Any = stream.read()
    return bytes(data)


def _write(store: FileSystem, path: str, data: bytes) -> None:
    # Object stores have no folders, and publish an object when it is whole; a disk needs a rename.
    from pyarrow.fs import LocalFileSystem

    store.create_dir(path.rpartition("/")[0], recursive=True)
    if not isinstance(store, LocalFileSystem):
        with store.open_output_stream(path) as stream:
            stream.write(data)
        return
    with store.open_output_stream(f"{path}.partial") as stream:
        stream.write(data)
    store.move(f"{path}.partial", path)
