"""The limits of a token, as the database keeps them: fine-grained rights, or one repo that a CI job publishes to."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from hubkit.core.errors import UsageError
from hubkit.core.fine_grained import NAMESPACES, REPOS, FineGrained

_KINDS = NAMESPACES | REPOS


@dataclass(frozen=True)
class Publisher:
    """What a trusted publisher's token is for: the repo with this internal id. ``subject``: the job that got it."""

    repo: str
    subject: str = ""


Limits = FineGrained | Publisher


def checked(value: Any) -> FineGrained:
    """Fine-grained rights that a client sent, by names; UsageError when they are not."""
    if not isinstance(value, dict):
        raise UsageError("Fine-grained permissions must be an object with 'global' and 'scoped'.")
    given, everywhere = value.get("scoped") or [], value.get("global") or []
    if not isinstance(given, list) or not all(_is_scope(item) for item in given):
        raise UsageError(
            f"Each item of 'scoped' must be {{entity: {{type, name}}, permissions: [right]}}; a type is one of"
            f" {', '.join(sorted(_KINDS))}."
        )
    if not _are_strings(everywhere):
        raise UsageError("'global' must be a list of rights.")
    rights = FineGrained.of({"global": everywhere, "scoped": given})
    return replace(rights, scopes=tuple(replace(scope, uid="") for scope in rights.scopes))


def _is_scope(item: Any) -> bool:
    entity = item.get("entity") if isinstance(item, dict) else None
    if not isinstance(entity, dict):
        return False
    named = entity.get("type") in _KINDS and isinstance(entity.get("name"), str)
    return named and _are_strings(item.get("permissions"))


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def to_text(limits: Limits) -> str:
    """``limits`` as the database keeps them."""
    if isinstance(limits, Publisher):
        return json.dumps({"publisher": {"repo": limits.repo, "subject": limits.subject}})
    return json.dumps(limits.to_json())


def from_text(text: str) -> Limits:
    """The limits that :func:`to_text` wrote; what cannot be read allows nothing."""
    try:
        value = json.loads(text)
    except ValueError:
        return FineGrained()
    publisher = value.get("publisher") if isinstance(value, dict) else None
    if isinstance(publisher, dict):
        return Publisher(str(publisher.get("repo", "")), str(publisher.get("subject", "")))
    return FineGrained.of(value)
