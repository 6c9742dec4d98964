"""Model bundles: a folder that is either exactly what was saved, or refused.

    manifest.json      what the model is, what it was fitted on, and the SHA-256 of the others
    model.txt          the trees in LightGBM's text format
    calibration.json   the knots of the calibration
    references.json    the references it was compared with

Nothing in it can run: there is no pickle. The manifest carries a digest of itself and must be in
the very form that `save_bundle` writes, so one changed byte anywhere is found.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catalog.errors import ConfigError, DataError, IntegrityError
from research.calibration import IsotonicCalibration
from research.estimates import Estimate
from research.features import feature_table_hash
from research.models.lightgbm_expert import LightGBMExpert
from research.predictions import PredictorSpec
from research.references import References
from research.training import FittedModel, WalkForwardConfig, predictor_spec

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
FILES = ("calibration.json", "model.txt", "references.json")
_PACKAGES = ("levibot", "lightgbm", "numba", "numpy", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle.

    Parameters
    ----------
    path : Path
        Its folder.
    manifest : dict
        What is written about it.
    model : FittedModel
        The model, ready to predict; its spec carries the bundle's model_version.
    """

    path: Path
    manifest: dict[str, Any]
    model: FittedModel

    @property
    def version(self) -> str:
        """The bundle's model version, which every prediction carries."""
        return str(self.manifest["model_version"])

    @property
    def profile(self) -> dict[str, Any]:
        """The run profile that it was saved with, as JSON; empty if it was saved without one."""
        return dict(self.manifest["profile"])


def save_bundle(
    path: Path,
    model: FittedModel,
    metrics: Mapping[str, Estimate] | None = None,
    *,
    profile: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a bundle: completely, or not at all.

    Parameters
    ----------
    path : Path
        Folder to make; must not exist.
    model : FittedModel
        From `research.training.train_until`.
    metrics : Mapping of Estimate, optional
        Out-of-sample figures to keep beside it.
    profile : Mapping, optional
        The run profile that it was trained for, as JSON, so that the bundle can be evaluated by
        itself. Kept as it is; research does not look inside.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ConfigError
        If the folder exists already.
    DataError
        If it cannot be written (a full disk, no permission); nothing is left behind.
    """
    if path.exists():
        raise ConfigError(f"bundle folder must not exist yet, {path} does; choose another name")
    texts = {
        "calibration.json": model.calibration.to_json(),
        "model.txt": model.expert.to_text(),
        "references.json": model.references.to_json(),
    }
    hashes = {name: _sha256(text.encode()) for name, text in texts.items()}
    manifest = {**_manifest(model, hashes, metrics or {}), "profile": dict(profile or {})}
    manifest["digest"] = _digest(manifest)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        for name, text in {**texts, MANIFEST: _render(manifest)}.items():
            _write(partial / name, text)
        partial.rename(path)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(
            f"bundle could not be written to {path}: {error}; nothing was left behind"
        ) from error
    return manifest


def load_bundle(path: Path) -> Bundle:
    """Load a bundle after checking every part of it.

    Raises
    ------
    DataError
        If there is no bundle at `path`.
    IntegrityError
        If any part is not what was saved, or was saved for another feature table or schema; the
        message says which part differs.
    """
    manifest, texts = verify_bundle(path)
    config = _config(manifest)
    spec = _checked_spec(manifest, config)
    model = FittedModel(
        config=config,
        spec=spec,
        expert=LightGBMExpert.from_text(texts["model.txt"], manifest["feature_names"]),
        calibration=IsotonicCalibration.from_json(texts["calibration.json"]),
        references=References.from_json(texts["references.json"]),
        **{name: manifest["training"][name] for name in _TRAINING_FIELDS},
    )
    return Bundle(path, manifest, model)


_TRAINING_FIELDS = ("n_rows", "train_start", "train_end", "until", "data_hash", "synthetic")


def verify_bundle(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Check that a folder holds what was saved, byte for byte, without loading the model.

    Returns
    -------
    manifest, texts
        The manifest and the text of each file.

    Raises
    ------
    DataError
        If there is no bundle at `path`.
    IntegrityError
        Naming the file that is missing, extra or changed, or the schema that differs.
    """
    if not (path / MANIFEST).is_file():
        raise DataError(f"{path} must be a bundle folder with a {MANIFEST}, is none")
    manifest = _read_manifest(path / MANIFEST)
    present = {file.name for file in path.iterdir()} - {MANIFEST}
    expected = set(FILES)
    if present != expected:
        raise IntegrityError(
            f"bundle {path} must hold {sorted(expected)}, missing: "
            f"{sorted(expected - present) or 'none'}, extra: {sorted(present - expected) or 'none'}"
        )
    texts = {}
    for name in FILES:
        content = (path / name).read_bytes()
        if _sha256(content) != manifest["files"].get(name):
            raise IntegrityError(
                f"{name} of bundle {path} must have the SHA-256 "
                f"{str(manifest['files'].get(name))[:12]}… that its manifest says, had "
                f"{_sha256(content)[:12]}…; the file was changed: use another copy of the bundle"
            )
        texts[name] = content.decode()
    return manifest, texts


def _manifest(
    model: FittedModel, hashes: dict[str, str], metrics: Mapping[str, Estimate]
) -> dict[str, Any]:
    identity = _sha256(json.dumps(hashes, sort_keys=True).encode())
    day = datetime.fromtimestamp(model.until // 1_000_000_000, tz=UTC).strftime("%Y%m%d")
    config = model.config
    return {
        "schema_version": SCHEMA_VERSION,
        "model_version": f"lightgbm-{day}-{identity[:12]}",
        "feature_table_hash": feature_table_hash(config.features),
        "feature_names": list(model.expert.names),
        "instruments": list(model.spec.instruments),
        "interval_ns": model.spec.interval_ns,
        "spec_hash": model.spec.spec_hash,
        "parts": dict(model.spec.parts),
        "config": config.model_dump(mode="json"),
        "training": {name: getattr(model, name) for name in _TRAINING_FIELDS},
        "seeds": {"model": config.model.seed, "bootstrap": config.bootstrap.seed},
        "metrics": {name: estimate.as_dict() for name, estimate in metrics.items()},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "files": hashes,
    }


def _read_manifest(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise IntegrityError(f"{path} must be JSON, is not: {error}") from error
    if not isinstance(manifest, dict):
        raise IntegrityError(f"{path} must hold a JSON object, held {type(manifest).__name__}")
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise IntegrityError(
            f"schema_version of {path} must be {SCHEMA_VERSION}, was {version!r}; train the "
            "bundle again with this version of LeviBot"
        )
    if content != _render(manifest).encode() or manifest.get("digest") != _digest(manifest):
        raise IntegrityError(
            f"{path} must be as it was saved, but its digest differs; the manifest was changed: "
            "use another copy of the bundle"
        )
    return manifest


def _config(manifest: dict[str, Any]) -> WalkForwardConfig:
    try:
        return WalkForwardConfig.model_validate(manifest["config"])
    except ValidationError as error:
        raise IntegrityError(
            f"config of the bundle does not fit this version of LeviBot: {error}"
        ) from error


def _checked_spec(manifest: dict[str, Any], config: WalkForwardConfig) -> PredictorSpec:
    """Refuse a model whose features this code would compute in another way."""
    computed = feature_table_hash(config.features)
    if manifest["feature_table_hash"] != computed:
        raise IntegrityError(
            f"feature table of the bundle must be this code's ({computed[:12]}…), was "
            f"{manifest['feature_table_hash'][:12]}…; its features would be computed in another "
            "way than the model was trained on: train it again"
        )
    spec = predictor_spec(config, manifest["instruments"], manifest["interval_ns"])
    parts = dict(spec.parts)
    differing = sorted(name for name in parts if manifest["parts"].get(name) != parts[name])
    if differing or manifest["spec_hash"] != spec.spec_hash:
        raise IntegrityError(
            f"specification of the bundle differs from this code's in: "
            f"{', '.join(differing) or 'instruments or interval'}; train it again"
        )
    return replace(spec, model_version=manifest["model_version"])


def _digest(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    return _sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def _render(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=2, sort_keys=True) + "\n"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, text: str) -> None:
    with path.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
