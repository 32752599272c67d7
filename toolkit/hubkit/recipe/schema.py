"""The JSON schema of a recipe, and which keys it knows at each place."""

from __future__ import annotations

from functools import cache
from typing import Any

from hubkit.recipe.mistakes import KeyPath
from hubkit.recipe.models import Recipe


@cache
def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors (draft 2020-12)."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hubkit recipe", **schema}


def keys_at(path: KeyPath) -> list[str]:
    """The keys that a recipe may have at ``path``; none where there are no keys, or any."""
    schema = recipe_schema()
    node: Any = schema
    for part in path:
        node = _resolved(node, schema)
        if part in node.get("properties", {}):
            node = node["properties"][part]
        elif isinstance(node.get("additionalProperties"), dict):
            node = node["additionalProperties"]
        elif "items" in node:
            node = node["items"]
        else:
            return []
    return list(_resolved(node, schema).get("properties", {}))


def _resolved(node: Any, schema: Any) -> Any:
    for choice in node.get("anyOf", []):
        if "$ref" in choice:
            node = choice
    reference = node.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else node
