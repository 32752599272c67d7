"""The Hub that a command talks to: its endpoint, the token issued for it, and a cache of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class Target:
    """The Hub that a run publishes to, with the token that was issued for it and a cache of its own.

    ``token`` never leaves the process but as the environment variable of a child that needs it.
    """

    endpoint: str
    home: Path
    token: str | None = field(default=None, repr=False)
    embedded: bool = False
    trusted: str | None = None
    """The repo that the token is for, when a CI job's identity gave it (:mod:`hubkit.hub.trusted_publishing`)."""

    @property
    def name(self) -> str:
        """What a run remembers it by: the embedded Hub may change its port."""
        return "embedded" if self.embedded else self.endpoint

    def environment(self) -> dict[str, str]:
        """Variables for a child process in which every Hugging Face library talks to this Hub and no other."""
        found = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        if self.embedded:
            found["HF_HUB_DISABLE_XET"] = "1"
        if self.token:
            found["HF_TOKEN"] = self.token
        else:
            found["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        return found
