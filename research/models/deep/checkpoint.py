"""What an interrupted fit leaves behind to go on from: one safetensors file (torch).

The file's own header holds what is not an array, as JSON, so that both are replaced at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from catalog.errors import ConfigError, IntegrityError

_KEY = "levibot"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a fit after a whole epoch.

    Parameters
    ----------
    weights, best : dict of str to Tensor
        Of the model now, and where its validation loss was lowest.
    moments : dict of str to Tensor
        Of the optimiser; see `research.models.deep.optimiser`.
    generator : (n_bytes,) uint8
        State of the generator of order and masks.
    progress : dict
        Epoch, records and seconds so far; JSON.
    """

    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    moments: dict[str, Tensor]
    generator: Tensor
    progress: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint, fingerprint: str) -> None:
    """Replace the file at once: an interrupted write leaves the one before."""
    tensors = {"generator": checkpoint.generator}
    for part in ("weights", "best", "moments"):
        found: dict[str, Tensor] = getattr(checkpoint, part)
        # Copies: safetensors refuses tensors that share memory.
        tensors |= {f"{part}.{name}": value.detach().cpu().clone() for name, value in found.items()}
    about = json.dumps({"fingerprint": fingerprint, "progress": checkpoint.progress})
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={_KEY: about})
    partial.replace(path)


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """Read what `save_checkpoint` wrote; None if there is no file.

    Raises
    ------
    ConfigError
        If it belongs to another fit.
    IntegrityError
        If it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[_KEY])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        theirs, progress = about["fingerprint"], about["progress"]
        generator = tensors.pop("generator")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise IntegrityError(
            f"checkpoint {path} cannot be read ({error}); remove it to begin anew"
        ) from error
    if theirs != fingerprint:
        raise ConfigError(
            f"checkpoint {path} must be of this fit ({fingerprint[:12]}), was of another "
            f"({theirs[:12]}); remove it or name another folder"
        )
    return Checkpoint(
        **{part: _part(tensors, part) for part in ("weights", "best", "moments")},
        generator=generator,
        progress=progress,
    )


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
