"""Staging, publishing and recovering: a change of the catalog happens whole or not at all.

1. New files are written under ``staging/<number>/`` and synced.
2. The commit record ``manifest/<number>.json`` is renamed into place: this is the commit.
3. The staged files move to their places and replaced files are removed.

A kill before 2 leaves the old state and some rubbish in ``staging/``; a kill after it leaves the
new state, whose files are found in ``staging/`` until the next opener finishes 3. Readers need
no lock; writers hold ``.lock``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from catalog.errors import DataError, IntegrityError
from catalog.manifest import FOLDER, FileRecord, Manifest, manifest_path

LOCK_TIMEOUT_SECS = 30.0
STAGING = "staging"
LOCK = ".lock"
FETCHED = ".fetch"
"""Where `levibot data fetch` keeps what it has downloaded, and its ledger."""
_OWN_NAMES = frozenset({LOCK, STAGING, FOLDER, FETCHED})
_POLL_SECS = 0.05


@contextlib.contextmanager
def locked(root: Path, timeout_secs: float) -> Iterator[None]:
    """Hold the catalog's writer lock; wait for it at most `timeout_secs` seconds.

    Raises
    ------
    DataError
        If another process still holds it then.
    """
    with (root / LOCK).open("a+") as handle:
        deadline = time.monotonic() + timeout_secs
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DataError(_busy(root, handle.name, timeout_secs)) from None
            time.sleep(_POLL_SECS)
        handle.seek(0)
        handle.truncate()
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def _busy(root: Path, lock: str, timeout_secs: float) -> str:
    holder = Path(lock).read_text().strip() or "unknown"
    return (
        f"the catalog {root} must have one writer at a time; process {holder} has been writing to "
        f"it for the {timeout_secs:g} s that were waited. Wait for it to end, then try again"
    )


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and make sure that it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Make sure that a folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest(root: Path) -> Manifest | None:
    """Return the catalog's state, or None if the folder holds no catalog.

    Raises
    ------
    IntegrityError
        If the newest commit record is damaged.
    """
    for _ in range(100):
        found = sorted((root / FOLDER).glob("[0-9]*.json"))
        if not found:
            return None
        try:
            return Manifest.from_bytes(found[-1].read_bytes(), f"{FOLDER}/{found[-1].name}")
        except FileNotFoundError:
            # A writer has removed it after its next commit: look again.
            continue
    raise IntegrityError(f"the commit records of {root} change faster than they can be read")


def require_free(root: Path) -> None:
    """Refuse a path at which no catalog could be made; nothing is made yet.

    Raises
    ------
    DataError
        If the path is no folder, or the folder holds something else.
    """
    if not root.exists():
        return
    try:
        strangers = sorted(path.name for path in root.iterdir() if path.name not in _OWN_NAMES)
    except OSError as error:
        raise DataError(
            f"catalog must be a folder, was {str(root)!r} ({error.strerror})"
        ) from error
    if strangers:
        raise DataError(
            f"catalog must be a new or empty folder, was {str(root)!r}, which holds "
            f"{', '.join(strangers[:3])}; name another one"
        )


def create_catalog(root: Path, timeout_secs: float) -> Manifest:
    """Make an empty catalog and return its state, or that of whoever was faster.

    Raises
    ------
    DataError
        If the path is no folder, the folder holds something else, or it cannot be written to.
    """
    require_free(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"catalog must be a folder that can be made, was {str(root)!r} ({error.strerror})"
        ) from error
    with locked(root, timeout_secs):
        existing = newest(root)
        if existing is not None:
            return existing
        manifest = Manifest()
        try:
            commit(root, manifest)
        except OSError as error:
            raise DataError(
                f"the catalog {root} could not be made ({error.strerror}); free some space or "
                f"choose another folder"
            ) from error
        return manifest


def stage(root: Path, sequence: int, relative: str, data: bytes) -> None:
    """Write a file of the coming commit."""
    write_synced(root / STAGING / f"{sequence:08d}" / relative, data)


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of some bytes, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def commit(root: Path, manifest: Manifest) -> None:
    """Publish a state whose new files are staged; when this returns, it is durable.

    Raises
    ------
    OSError
        If the disk is full or fails; then nothing has changed.
    """
    _sync_tree(root / STAGING / f"{manifest.sequence:08d}")
    target = manifest_path(root, manifest.sequence)
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_suffix(".tmp")
    try:
        write_synced(temporary, manifest.to_bytes())
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    # From here on the commit is made. A failing sync may lose it in a power cut, whole; to call
    # it failed would be wrong.
    with contextlib.suppress(OSError):
        sync_folder(target.parent)


def _sync_tree(folder: Path) -> None:
    if not folder.is_dir():
        return
    for parent, _, _ in os.walk(folder):
        sync_folder(Path(parent))
    sync_folder(folder.parent)


def settle(root: Path, manifest: Manifest) -> None:
    """Finish the last commit and remove what interrupted ones left; needs the lock.

    It may be interrupted and repeated at any point.
    """
    _move_staged(root, manifest)
    current = {file.path for file in manifest.files()}
    for path in manifest.retired:
        if path not in current:
            (root / path).unlink(missing_ok=True)
    for leftover in (root / FOLDER).glob("*"):
        if leftover.name != manifest_path(root, manifest.sequence).name:
            leftover.unlink(missing_ok=True)
    if (root / STAGING).is_dir():
        shutil.rmtree(root / STAGING)


def _move_staged(root: Path, manifest: Manifest) -> None:
    staged = root / STAGING / f"{manifest.sequence:08d}"
    if not staged.is_dir():
        return
    folders = set()
    for file in manifest.files():
        source, target = staged / file.path, root / file.path
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
        folders.add(target.parent)
    for folder in folders:
        if folder.is_dir():
            sync_folder(folder)


def discard(root: Path, sequence: int) -> None:
    """Remove the staged files of a commit that did not come; a full disk must not stop this."""
    if manifest_path(root, sequence).exists():
        return  # interrupted after the commit: the next opener moves the files to their places
    shutil.rmtree(root / STAGING / f"{sequence:08d}", ignore_errors=True)


def read_file(root: Path, manifest: Manifest, file: FileRecord) -> bytes:
    """Return a file's bytes, from its place or from staging, checked against its hash.

    Raises
    ------
    FileNotFoundError
        If it is in neither place.
    IntegrityError
        If the bytes are not what was written.
    """
    final = root / file.path
    staged = root / STAGING / f"{manifest.sequence:08d}" / file.path
    data = None
    # The last look is for a file that moved from staging between the first two.
    for path in (final, staged, final):
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes()
            break
    if data is None:
        raise FileNotFoundError(file.path)
    if digest_of(data) != file.sha256:
        raise IntegrityError(
            f"file {file.path} of the catalog must have the SHA-256 {file.sha256[:16]}… of its "
            f"commit record, was changed; restore it from a copy or import its source again into "
            f"a new catalog"
        )
    return data
