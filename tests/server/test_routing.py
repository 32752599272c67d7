"""The route of a request is found among few, and is the one that Starlette would find among all."""

from __future__ import annotations

import random
import re
from contextlib import nullcontext
from typing import Any

import pytest
from starlette.routing import Match

from hubkit.server.app import ROUTES
from hubkit.server.http.routing import Route, Table
from hubkit.server.routes.commits import commit

_WORDS = "api models datasets spaces me x resolve main tree a.txt lfs refs x.git hubkit discussions 1 static"
WORDS = _WORDS.split()


def test_the_route_of_each_path_is_the_first_of_all_that_matches() -> None:
    draw, table, seen = random.Random(1), Table(ROUTES), set()

    def filled(match: re.Match[str]) -> str:
        return draw.choice(["models", "b/c", "x"] if match[2] else ["me", "main", "refs%2Fpr%2F1"])

    paths = [re.sub(r"\{(\w+)(:\w+)?\}", filled, route.path) for route in ROUTES for _ in range(3)]
    paths += ["/" + "/".join(draw.choice(WORDS) for _ in range(draw.randrange(8))) for _ in range(500)]
    for path in (*paths, "", "/", "//", "/a" * 100):
        scope = {"type": "http", "path": path, "method": draw.choice(["GET", "POST", "DELETE"]), "path_params": {}}
        scope |= {"root_path": ""}
        matches = [(route.matches(scope)[0], route) for route in ROUTES]
        full = [pair for pair in matches if pair[0] == Match.FULL]
        partial = [pair for pair in matches if pair[0] == Match.PARTIAL]
        match, found = table.matches(scope)
        assert (match, found.get("hubkit.route")) == [*full, *partial, (Match.NONE, None)][0], path
        seen.add(match)
    assert seen == {Match.FULL, Match.PARTIAL, Match.NONE}
    assert len(table._by_shape) < 300  # whatever strangers ask for


@pytest.mark.parametrize(
    "more",
    [
        {"body": "json"}, {"anonymous": True}, {"gzip": True}, {"hashed": True},
        {"turn": lambda caller: nullcontext()},
    ],
)  # fmt: skip
def test_a_short_body_is_not_combined_with_what_it_leaves_out(more: dict[str, Any]) -> None:
    """It is read in a way of its own, which does nothing of this."""
    Route("POST", "/a", commit, body="file", limit=100, short=True)
    with pytest.raises(ValueError, match="short"):
        Route("POST", "/a", commit, **{"body": "file", "limit": 100, "short": True, **more})
