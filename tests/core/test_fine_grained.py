"""What a fine-grained token may do, as a Hub states it."""

from __future__ import annotations

from typing import Any

import pytest

from hubkit.core.fine_grained import DISCUSS, READ, WRITE, FineGrained


def scoped(kind: str, name: str, *rights: str) -> dict[str, Any]:
    return {"entity": {"_id": "1", "type": kind, "name": name}, "permissions": list(rights)}


def test_rights_on_what_exists_and_on_what_is_new() -> None:
    value = {"global": [DISCUSS], "scoped": [scoped("user", "Ann", READ), scoped("model", "Ann/One", WRITE)]}
    token = FineGrained.of(value)
    assert token.on("model", "ann/ONE") == {READ, WRITE, DISCUSS}
    assert token.on("dataset", "ann/one") == token.on("model", "ann/one-more") == {READ, DISCUSS}
    assert token.in_namespace("ANN") == {READ, DISCUSS}, "a right on one repo creates none"
    assert token.on("model", "bob/one") == token.in_namespace("an") == {DISCUSS}
    assert FineGrained.of(token.to_json()) == token


@pytest.mark.parametrize(
    "value",
    [None, 1, "x", [], {}, {"scoped": 5, "global": "repo.write"}, {"scoped": [None, 1, {}, {"entity": 1}]},
     {"scoped": [{"entity": {"type": "bucket", "name": "ann/one"}, "permissions": [WRITE]}]},
     {"scoped": [{"entity": {"type": "model", "name": "ann/one"}, "permissions": WRITE}]}],
)  # fmt: skip
def test_what_has_another_form_is_no_right(value: Any) -> None:
    assert FineGrained.of(value).on("model", "ann/one") == FineGrained().in_namespace("ann") == frozenset()
