"""Model bundles: a folder that is either exactly what was saved, or refused.

    manifest.json               what the model is, what it was fitted on, the others' SHA-256
    experts/<name>/…            each expert's own files (trees as text, networks as ONNX)
    experts/<name>/calibration.json
                                the map from its score to a probability
    fusion.json                 how the experts' probabilities become one
    references.json             the references it was compared with
    reports.json                how the fit went and why its parts were chosen; no part of what
                                the model is, so two fits that took other times have one version

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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.strict_yaml import explain
from research.bundle_manifest import check_manifest, parse_manifest, read_part, read_text_part
from research.calibration import calibration_from_json
from research.estimates import Estimate
from research.features import feature_table_hash
from research.fit_reports import fit_report
from research.fitted import FittedModel, Member
from research.fusion import Fusion
from research.guidance import Guidance
from research.models.registry import load_expert
from research.predictions import PredictorSpec
from research.references import References
from research.settings import WalkForwardConfig, predictor_spec

SCHEMA_VERSION = 3
MANIFEST, FUSION, REFERENCES = "manifest.json", "fusion.json", "references.json"
CALIBRATION, GUIDANCE, REPORTS = "calibration.json", "guidance.json", "reports.json"
_PACKAGES = ("levibot", "lightgbm", "numba", "numpy", "onnxruntime", "scipy", "torch")


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
    reports : dict
        How the fit went, as `research.fit_reports.fit_report`.
    """

    path: Path
    manifest: dict[str, Any]
    model: FittedModel
    reports: dict[str, Any]

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
        Figures to keep beside it, such as `FitReports.metrics`.
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
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        _write_parts(partial, model)
        hashes = {name: _sha256((partial / name).read_bytes()) for name in _files(partial)}
        manifest = {**_manifest(model, hashes, metrics or {}), "profile": dict(profile or {})}
        manifest["digest"] = _digest(manifest)
        (partial / MANIFEST).write_bytes(_render(manifest).encode())
        _sync(partial)
        partial.rename(path)
    except OSError as error:
        raise DataError(
            f"bundle could not be written to {path}: {error}; nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _write_parts(folder: Path, model: FittedModel) -> None:
    for member in model.members:
        own = folder / "experts" / member.name
        own.mkdir(parents=True)
        member.expert.save(own)
        (own / CALIBRATION).write_bytes(member.calibration.to_json().encode())
    (folder / FUSION).write_bytes(model.fusion.to_json().encode())
    (folder / GUIDANCE).write_bytes(model.guidance.to_json().encode())
    (folder / REFERENCES).write_bytes(model.references.to_json().encode())
    report = json.dumps(fit_report(model), indent=1, allow_nan=False)
    (folder / REPORTS).write_bytes(f"{report}\n".encode())


def _files(folder: Path) -> list[str]:
    """Return the files of a folder and of those within, by path, without the manifest."""
    found = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return sorted(name for name in found if name != MANIFEST)


def load_bundle(path: Path) -> Bundle:
    """Load a bundle after checking every part of it.

    Neither torch nor lightgbm is imported.

    Raises
    ------
    DataError
        If there is no bundle at `path`.
    IntegrityError
        If any part is not what was saved, or was saved for another feature table or schema; the
        message says which part differs.
    """
    manifest = verify_bundle(path)
    config = _config(manifest)
    spec = _checked_spec(manifest, config)
    names = tuple(manifest["feature_names"])
    fusion = read_text_part(path, FUSION, Fusion.from_json)
    # One that had too few answers to be calibrated on is no member.
    chosen = [name for name in config.experts.chosen() if name in manifest["experts"]]
    members = [*fusion.experts, *(name for name in chosen if name not in fusion.experts)]
    if not set(fusion.experts) <= set(chosen):
        raise IntegrityError(
            f"fusion of bundle {path} must be of the experts {chosen}, was of "
            f"{list(fusion.experts)}; train it again"
        )
    model = FittedModel(
        config=config,
        spec=spec,
        feature_names=names,
        members=tuple(_load_member(path, name, names) for name in members),
        fusion=fusion,
        guidance=read_text_part(path, GUIDANCE, Guidance.from_json),
        references=read_text_part(path, REFERENCES, References.from_json),
        **{name: manifest["training"][name] for name in _TRAINING_FIELDS},
    )
    return Bundle(path, manifest, model, _reports(path, manifest, model))


def _reports(path: Path, manifest: dict[str, Any], model: FittedModel) -> dict[str, Any]:
    """Return how the fit went; of a bundle that was saved without it, what the manifest knows."""
    if REPORTS not in manifest["files"]:
        return fit_report(model)
    return read_text_part(path, REPORTS, lambda text: dict(json.loads(text)))


def _load_member(path: Path, name: str, names: tuple[str, ...]) -> Member:
    own = f"experts/{name}"
    calibration = read_text_part(path, f"{own}/{CALIBRATION}", calibration_from_json)
    return Member(
        read_part(path, own, lambda folder: load_expert(name, folder, names)), calibration
    )


_TRAINING_FIELDS = ("n_rows", "train_start", "train_end", "until", "data_hash", "synthetic")


def verify_bundle(path: Path) -> dict[str, Any]:
    """Check that a folder holds what was saved, byte for byte, without loading the model.

    Returns
    -------
    dict
        The manifest.

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
    present, expected = set(_files(path)), set(manifest["files"])
    if present != expected:
        raise IntegrityError(
            f"bundle {path} must hold {sorted(expected)}, missing: "
            f"{sorted(expected - present) or 'none'}, extra: {sorted(present - expected) or 'none'}"
        )
    for name, digest in manifest["files"].items():
        found = _sha256(read_part(path, name, Path.read_bytes))
        if found != digest:
            raise IntegrityError(
                f"{name} of bundle {path} must have the SHA-256 {str(digest)[:12]}… that its "
                f"manifest says, had {found[:12]}…; the file was changed: use another copy of "
                "the bundle"
            )
    return manifest


def _manifest(
    model: FittedModel, hashes: dict[str, str], metrics: Mapping[str, Estimate]
) -> dict[str, Any]:
    decisive = {name: digest for name, digest in hashes.items() if name != REPORTS}
    identity = _sha256(json.dumps(decisive, sort_keys=True).encode())
    day = datetime.fromtimestamp(model.until // 1_000_000_000, tz=UTC).strftime("%Y%m%d")
    config = model.config
    return {
        "schema_version": SCHEMA_VERSION,
        "model_version": f"{_kind(model)}-{day}-{identity[:12]}",
        "feature_table_hash": feature_table_hash(config.features),
        "feature_names": list(model.feature_names),
        "instruments": list(model.spec.instruments),
        "interval_ns": model.spec.interval_ns,
        "spec_hash": model.spec.spec_hash,
        "parts": dict(model.spec.parts),
        "config": config.model_dump(mode="json"),
        "training": {name: getattr(model, name) for name in _TRAINING_FIELDS},
        "seeds": _seeds(config),
        "experts": {member.name: asdict(member.expert.cost) for member in model.members},
        "metrics": {name: estimate.as_dict() for name, estimate in metrics.items()},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "files": hashes,
    }


def _kind(model: FittedModel) -> str:
    """Return what a version begins with: the expert that stands alone, or that there are more."""
    return model.members[0].name if len(model.members) == 1 else "fusion"


def _seeds(config: WalkForwardConfig) -> dict[str, int]:
    """Return the seed of everything that draws."""
    chosen = config.experts.chosen().items()
    seeds = {name: getattr(one, "seed", None) for name, one in chosen}
    drawn = {name: seed for name, seed in seeds.items() if seed is not None}
    return {**drawn, "bootstrap": config.bootstrap.seed}


def _read_manifest(path: Path) -> dict[str, Any]:
    content = read_part(path.parent, path.name, Path.read_bytes)
    manifest = parse_manifest(content, path)
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
    check_manifest(manifest, path)
    return manifest


def _config(manifest: dict[str, Any]) -> WalkForwardConfig:
    try:
        config = WalkForwardConfig.model_validate(manifest["config"])
        config.experts.chosen()
    except ValidationError as error:
        faults = "; ".join(explain(one, WalkForwardConfig, "config") for one in error.errors())
        raise IntegrityError(_unfit(faults)) from error
    except ConfigError as error:
        raise IntegrityError(_unfit(str(error))) from error
    return config


def _unfit(faults: str) -> str:
    return (
        f"config in {MANIFEST} of the bundle does not fit this version of LeviBot: {faults}; "
        "train it again"
    )


def _checked_spec(manifest: dict[str, Any], config: WalkForwardConfig) -> PredictorSpec:
    """Refuse a model whose features this code would compute in another way."""
    computed = feature_table_hash(config.features)
    if manifest["feature_table_hash"] != computed:
        raise IntegrityError(
            f"feature table of the bundle must be this code's ({computed[:12]}…), was "
            f"{manifest['feature_table_hash'][:12]}…; its features would be computed in another "
            "way than the model was trained on: train it again"
        )
    try:
        spec = predictor_spec(config, manifest["instruments"], manifest["interval_ns"])
    except ConfigError as error:
        raise IntegrityError(_unfit(str(error))) from error
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


def _sync(folder: Path) -> None:
    """Have everything in a folder on the disk before it gets its name."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
