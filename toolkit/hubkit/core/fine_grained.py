"""What a fine-grained token may do: the Hub states it in ``whoami``, hubkit reads it there, the embedded Hub decides by
it. Rights have the names that the Hub gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

READ, WRITE, DISCUSS = "repo.content.read", "repo.write", "discussion.write"
SEE_COLLECTIONS, COLLECT = "collection.read", "collection.write"
NAMESPACES = frozenset({"user", "org"})
REPOS = frozenset({"model", "dataset", "space"})


@dataclass(frozen=True)
class Scope:
    """The rights on one entity: ``kind`` is user, org, model, dataset or space. Names match in any case of letters.

    ``uid`` is the Hub's own id of the entity, which stays the same when it gets another name, and which another repo
    under its old name does not have; empty when it is not known.
    """

    kind: str
    name: str
    rights: frozenset[str]
    uid: str = ""

    def covers(self, namespace: str, repo: tuple[str, str] | None, uid: str = "") -> bool:
        """Whether the entity is the namespace, or ``repo`` (its type and id): by ``uid`` when both are known."""
        name = self.name.lower()
        if self.kind in NAMESPACES:
            return name == namespace.lower()
        if repo is None or self.kind != repo[0]:
            return False
        return self.uid == uid if self.uid and uid else name == repo[1].lower()


@dataclass(frozen=True)
class FineGrained:
    """The rights of one token: those ``everywhere`` are bound to no entity."""

    everywhere: frozenset[str] = frozenset()
    scopes: tuple[Scope, ...] = ()

    @classmethod
    def of(cls, value: Any) -> FineGrained:
        """The rights in ``{global: [right], scoped: [{entity: {type, name}, permissions: [right]}]}``.

        Entities and rights of kinds that hubkit does not know are kept: they cover nothing. What has another form is
        no right.
        """
        given = value if isinstance(value, dict) else {}
        scopes = []
        for item in _items(given.get("scoped")):
            entity = item.get("entity") if isinstance(item, dict) else None
            if isinstance(entity, dict):
                kind, name, uid = (str(entity.get(key, "")) for key in ("type", "name", "_id"))
                scopes.append(Scope(kind, name, _rights(item.get("permissions")), "" if ":" in uid else uid))
        return cls(_rights(given.get("global")), tuple(scopes))

    def on(self, repo_type: str, repo: str, uid: str = "") -> frozenset[str]:
        """The rights on a repo that exists; ``uid`` is the Hub's own id of it, where that is known."""
        return self._held(repo.partition("/")[0], (repo_type, repo), uid)

    def in_namespace(self, namespace: str) -> frozenset[str]:
        """The rights on whatever is new in a namespace: no right on a single repo counts."""
        return self._held(namespace, None)

    def _held(self, namespace: str, repo: tuple[str, str] | None, uid: str = "") -> frozenset[str]:
        return self.everywhere.union(*(scope.rights for scope in self.scopes if scope.covers(namespace, repo, uid)))

    def to_json(self) -> dict[str, Any]:
        """As ``whoami`` returns them."""
        return {
            "canReadGatedRepos": False,
            "global": sorted(self.everywhere),
            "scoped": [
                {
                    "entity": {
                        "_id": scope.uid or f"{scope.kind}:{scope.name}",
                        "type": scope.kind,
                        "name": scope.name,
                    },
                    "permissions": sorted(scope.rights),
                }
                for scope in self.scopes
            ],
        }


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _rights(value: Any) -> frozenset[str]:
    return frozenset(map(str, _items(value)))
