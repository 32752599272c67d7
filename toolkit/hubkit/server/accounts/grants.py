"""The rights of a fine-grained token: global ones, and those on users, organizations and repos."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hubkit.core.errors import UsageError

READ, WRITE, DISCUSS = "repo.content.read", "repo.write", "discussion.write"
_KINDS = ("user", "org", "model", "dataset", "space")


@dataclass(frozen=True)
class Grants:
    """The rights of one token. ``scoped``: (kind of the entity, its name in small letters, rights)."""

    everywhere: frozenset[str] = frozenset()
    scoped: tuple[tuple[str, str, frozenset[str]], ...] = ()

    @classmethod
    def of(cls, value: Any) -> Grants:
        """Grants from ``{global: [right], scoped: [{entity: {type, name}, permissions: [right]}]}``; or UsageError."""
        try:
            scoped = tuple(
                (str(item["entity"]["type"]), str(item["entity"]["name"]).lower(), frozenset(item["permissions"]))
                for item in value.get("scoped") or ()
            )
            everywhere = frozenset(value.get("global") or ())
        except (AttributeError, KeyError, TypeError) as error:
            raise UsageError(f"This is not a set of fine-grained permissions: {error}.") from None
        rights = everywhere.union(*(held for _, _, held in scoped))
        if any(kind not in _KINDS for kind, _, _ in scoped) or not all(isinstance(right, str) for right in rights):
            raise UsageError(f"An entity is one of {', '.join(_KINDS)}, and its permissions are strings.")
        return cls(everywhere, scoped)

    def allow(self, right: str, namespace: str, repo: tuple[str, str] | None = None) -> bool:
        """Whether ``right`` is given for ``repo`` (type, id), or without one for new repos of ``namespace``."""
        if right in self.everywhere:
            return True
        return any(
            right in held
            and ((kind in {"user", "org"} and name == namespace.lower()) or (repo is not None and (kind, name) == repo))
            for kind, name, held in self.scoped
        )

    def to_json(self) -> dict[str, Any]:
        """As ``whoami`` returns them."""
        return {
            "canReadGatedRepos": False,
            "global": sorted(self.everywhere),
            "scoped": [
                {"entity": {"_id": f"{kind}:{name}", "type": kind, "name": name}, "permissions": sorted(held)}
                for kind, name, held in self.scoped
            ],
        }

    def text(self) -> str:
        """As the database keeps them."""
        return json.dumps(self.to_json())
