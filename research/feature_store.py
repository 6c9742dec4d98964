"""Features that are kept under the hash of everything that decided them, and mapped into memory.

The same panel, settings, code and libraries give the same key, and nothing else does: an entry of
other code or data is never found, because it has another name. An entry is written whole or not at
all, and what is damaged is made anew. Processes that open one share its pages.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.errors import DataError
from catalog.progress import Progress, no_progress
from research.code_identity import code_parts
from research.features import FeatureMatrix, compute_features, feature_table_hash
from research.panel_digest import panel_digest
from research.predictions import hash_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from research.panel import Panel
    from research.settings import WalkForwardConfig

MOST_KEPT = 4
"""Entries beyond these, the oldest first, are removed: each is as large as the table."""
_ABANDONED_SECS = 3_600.0
_RECORD = "features.json"
_COLUMNS = ("ts_init", "instrument", "values", "valid")
_CODE = ("code of features", "libraries")


def _tell_nobody(_: str) -> None:
    """Let a remark pass."""


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """A folder of feature tables, each in a folder of its own that is named after its key.

    Parameters
    ----------
    folder : Path
        Made when the first table is kept.
    tell : callable
        Given a sentence for an entry that is damaged, and for one that cannot be kept.
    """

    folder: Path
    tell: Callable[[str], None] = _tell_nobody

    def matrix(
        self, panel: Panel, config: WalkForwardConfig, *, progress: Progress = no_progress
    ) -> FeatureMatrix:
        """Return the features of a panel: those that are kept, or else made and kept.

        Parameters
        ----------
        panel : Panel
            Its `data_hash` says what it holds.
        config : WalkForwardConfig
            Its features count, and nothing else.
        progress : Progress
            As `compute_features`; told nothing where they are kept.

        Returns
        -------
        FeatureMatrix
            Bit for bit what `compute_features` returns. Of a kept one the arrays are mapped from
            the file, private to this process where it writes into them.

        Raises
        ------
        ConfigError, DataError
            As `compute_features`.
        """
        parts = feature_parts(panel, config)
        entry = self.folder / hash_parts(parts)[:32]
        found = self._read(entry, parts)
        if found is None:
            found = compute_features(panel, config.features, progress=progress)
            self._write(entry, found, parts)
        return found

    def _read(self, entry: Path, parts: dict[str, str]) -> FeatureMatrix | None:
        """Return an entry; None where there is none, or one that is not what was written."""
        if not entry.is_dir():
            return None
        try:
            record = json.loads((entry / _RECORD).read_text(encoding="utf-8"))
            if record["parts"] != parts:
                raise ValueError("it was made for another question")
            for name in _COLUMNS:
                if _digest(entry / f"{name}.npy") != record["sha256"][name]:
                    raise ValueError(f"{name} is not what was written")
            arrays = {name: _mapped(entry / f"{name}.npy") for name in _COLUMNS}
            names, instruments = tuple(record["names"]), tuple(record["instruments"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.tell(f"features kept in {entry.name} must be made anew: {error}")
            shutil.rmtree(entry, ignore_errors=True)
            return None
        return FeatureMatrix(names, instruments, **arrays)

    def _write(self, entry: Path, matrix: FeatureMatrix, parts: dict[str, str]) -> None:
        """Keep a table. That a disk is full must not cost the run that has made it already."""
        staging = entry.with_name(f".{entry.name}.{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._forget_abandoned()
            staging.mkdir()
            for name in _COLUMNS:
                with (staging / f"{name}.npy").open("wb") as file:
                    np.save(file, getattr(matrix, name))
                    file.flush()
                    os.fsync(file.fileno())
            record = {
                "parts": parts,
                "names": matrix.names,
                "instruments": matrix.instruments,
                "sha256": {name: _digest(staging / f"{name}.npy") for name in _COLUMNS},
            }
            text = json.dumps(record, indent=1, sort_keys=True)
            (staging / _RECORD).write_text(text + "\n", encoding="utf-8")
            if not entry.exists():  # else another process was faster, with the same bits
                staging.rename(entry)
            self._forget_oldest(entry)
        except OSError as error:
            self.tell(f"features could not be kept in {self.folder}: {error}; they are not reused")
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _forget_abandoned(self) -> None:
        """Remove what a killed process had begun: a table takes minutes to write at most."""
        long_ago = time.time() - _ABANDONED_SECS
        for path in self.folder.glob(".*.partial"):
            if path.stat().st_mtime < long_ago:
                shutil.rmtree(path, ignore_errors=True)

    def _forget_oldest(self, newest: Path) -> None:
        kept = sorted(
            (path for path in self.folder.iterdir() if path != newest and path.name[0] != "."),
            key=lambda path: path.stat().st_mtime_ns,
        )
        for path in kept[: max(len(kept) - (MOST_KEPT - 1), 0)]:
            shutil.rmtree(path, ignore_errors=True)


def feature_parts(panel: Panel, config: WalkForwardConfig) -> dict[str, str]:
    """Return all that decides the features of a panel, by name.

    Raises
    ------
    DataError
        If the panel does not say what data it holds.
    """
    if not panel.data_hash:
        raise DataError("features are kept under the hash of their data, the panel has none")
    code = code_parts(config)
    return {
        "features": feature_table_hash(config.features),
        "settings": config.features.content_hash(),
        "instruments": ",".join(panel.instruments()),
        "interval": str(panel.interval_ns),
        "data": panel.data_hash,
        "bars": panel_digest(panel),
        **{name: code[name] for name in _CODE},
    }


def _mapped(path: Path) -> NDArray[Any]:
    # Copied where it is written to: some code takes arrays only that can be. As a plain array:
    # compiled code would be compiled again for numpy's own class of mapped ones.
    return np.asarray(np.load(path, mmap_mode="c"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
