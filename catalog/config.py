"""The base of every configuration object."""

from __future__ import annotations

import hashlib
import json
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, keyword-only record of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    UNHASHED: ClassVar[frozenset[str]] = frozenset()
    """Keys that no result depends on: they are no part of the hash."""

    def content_hash(self) -> str:
        """Return the SHA-256 of the settings in canonical JSON, as 64 hex digits."""
        content = self.model_dump(mode="json", exclude=set(self.UNHASHED))
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
