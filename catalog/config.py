"""The base of every configuration object."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, keyword-only record of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    UNHASHED: ClassVar[frozenset[str]] = frozenset()
    """Keys that no result depends on: they are no part of the hash."""

    def hashed_content(self) -> dict[str, Any]:
        """Return the settings that results depend on, in the types of JSON."""
        return self.model_dump(mode="json", exclude=set(self.UNHASHED))

    def content_hash(self) -> str:
        """Return the SHA-256 of the settings in canonical JSON, as 64 hex digits."""
        text = json.dumps(self.hashed_content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
