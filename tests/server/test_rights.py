"""Every route, for tokens of every kind, on repos of every kind: what it may answer, and which words it may say.

What is expected is written down as rules (``access_rules.py``) and never asked of the Hub. A route that is not in
:data:`RULES` fails the test until somebody has decided what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from access_rules import RULES, Rule, expected, filled, forbidden, requests, rights, rules_of
from access_world import ONE, PLACES, WORD, Answer, Place, World, world

from hubkit.server.app import ROUTES

pytestmark = pytest.mark.fault("A3")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world that all tests here look at; their requests change nothing in it."""
    with world(tmp_path_factory.mktemp("world") / "hub") as made:
        yield made


def assert_silent(answer: Answer, words: dict[str, str], where: object) -> None:
    said = {word: words[word] for word in WORD.findall(answer.text) if word in words}
    assert not said, f"{where} says {said}: {answer.text[:600]}"


def assert_verdict(answer: Answer, verdict: str, where: object) -> None:
    refused = answer.status in {401, 403} or answer.headers.get("x-error-code") == "RepoNotFound"
    if verdict == "yes":
        assert not refused and answer.status < 500, f"{where} is refused: {answer.status} {answer.text[:300]}"
    else:
        assert answer.status == int(verdict), f"{where}: {answer.status}, not {verdict}: {answer.text[:300]}"


TOKENS = (
    "nobody", "ann: read", "ann: write", "ann: nothing", "ann: reads one", "ann: writes one",
    "ann: one dataset of the same name", "ann: her namespace", "ann: bob's namespace", "ann: discussions", "bob",
    "bob: reads one of ann", "reader of team", "writer of team", "admin of team", "owner", "owner: read",
    "owner: reads one", "publisher of one", "publisher of a deleted repo", "revoked", "expired", "unknown",
)  # fmt: skip


ON_PAGES = {
    "nobody", "ann: read", "ann: reads one", "bob", "publisher of one", "revoked"
}  # fmt: skip
"""Tokens that are tried on pages too: these take ten times as long, and decide nothing by themselves."""


def test_the_tokens_of_the_world_are_those_of_the_rules(known: World) -> None:
    assert set(known.tokens) == set(TOKENS)


def test_every_route_has_a_rule(record_property: Callable[[str, object], None]) -> None:
    record_property("figure", f"routes: {len(ROUTES)}, kinds of tokens: {len(TOKENS)}, repos: {len(PLACES)}")
    used = set()
    for route in ROUTES:
        assert route.methods is not None
        for rule in rules_of(min(route.methods - {"HEAD"}), route.path):
            used.add(id(rule))
    assert used == {id(rule) for rule in RULES.values()}, "a rule for a route that is no more"


EVERYWHERE = {"nobody", "ann: read", "ann: reads one", "bob", "writer of team", "owner"}
"""Tokens that are tried on every repo. The others are tried on one of each type, state and set of rights."""


def places_of(who: str) -> list[Place]:
    """The repos that a token is tried on."""
    unlike = {(place.kind, place.state, frozenset(rights(who, place))): place for place in reversed(PLACES)}
    return PLACES if who in EVERYWHERE else [place for place in PLACES if place in unlike.values()]


def every_request(
    known: World, who: str, *, pages: bool, places: list[Place] = PLACES
) -> Iterator[tuple[Any, Rule, Place, dict[str, Any], str]]:
    """Every request to make with a token: route, rule, place, request and what is expected of it."""
    for route in ROUTES:
        assert route.methods is not None
        for rule in rules_of(min(route.methods - {"HEAD"}), route.path):
            if rule.page and not pages:
                continue
            for place in places if "{" in str(rule.tries) + route.path else places[:1]:
                for request in requests(route, rule, place, known):
                    verdict = expected(rule, who, place, request["method"])
                    deletes = (request["method"], len(request["path"].split("/"))) == ("DELETE", 5)
                    if verdict == "yes" and (
                        request["path"] == "/api/repos/delete" or (deletes and rule.need == "collect")
                    ):
                        continue  # the only requests that would change something
                    yield route, rule, place, request, verdict


def of_page(rule: Rule) -> dict[str, str]:
    return {"accept": "text/html"} if rule.page else {}


@pytest.mark.parametrize("who", TOKENS)
def test_every_route_goes_by_the_rights_of_the_token(known: World, who: str) -> None:
    assert_goes_by_rights(known, who, places_of(who))


@pytest.mark.soak
@pytest.mark.parametrize("who", [who for who in TOKENS if who not in EVERYWHERE])
def test_every_route_goes_by_the_rights_of_the_token_on_every_repo(known: World, who: str) -> None:
    assert_goes_by_rights(known, who, PLACES)


def assert_goes_by_rights(known: World, who: str, places: list[Place]) -> None:
    words, count = forbidden(who, known), 0
    for _, rule, _, request, verdict in every_request(known, who, pages=who in ON_PAGES, places=places):
        answer = known.send(**request, token=known.tokens[who], headers=of_page(rule))
        assert_verdict(answer, verdict, (who, request))
        assert_silent(answer, words, (who, request))
        count += 1
    assert count > 400, "it asked nothing"


@pytest.mark.parametrize("who", ["ann: read", "ann: reads one", "owner"])
def test_the_cookie_of_a_browser_reads_pages_and_files_and_nothing_else(known: World, who: str) -> None:
    headers = {"cookie": known.cookie(who)}
    reader = {"owner": "owner: read"}.get(who, who)
    with_token, without = forbidden(reader, known), forbidden("nobody", known)
    for _, rule, place, request, _ in every_request(known, "nobody", pages=True):
        counts = rule.cookie and request["method"] == "GET"
        if request["path"] == "/logout":
            continue  # it ends the login
        verdict = expected(rule, reader if counts else "nobody", place, request["method"])
        answer = known.send(**request, headers=headers | of_page(rule))
        assert_verdict(answer, verdict, ("cookie", who, request))
        assert_silent(answer, with_token if counts else without, ("cookie", who, request))
        if counts and answer.status == 200 and place.state != "public" and "read" in rights(reader, place):
            assert "no-store" in answer.headers["cache-control"], request


@pytest.mark.parametrize("who", ["nobody", "ann: discussions", "publisher of one", "bob"])
def test_a_hidden_repo_is_answered_as_one_that_does_not_exist(known: World, who: str) -> None:
    token = known.tokens[who]
    for route, rule, place, request, verdict in every_request(known, who, pages=True):
        if "see" in rights(who, place) or place.word("n") not in str(request) or rule.need in {"create", "nothing"}:
            continue
        absent = {key: _renamed(value, place) for key, value in request.items()}
        for method in {request["method"], *({"HEAD"} & route.methods)}:
            one, other = (
                known.send(**one | {"method": method}, token=token, headers=of_page(rule)) for one in (request, absent)
            )
            assert one.status == other.status == int(verdict), (method, request)
            assert _plain(one) == _renamed(_plain(other), place, back=True), (method, request)


def _renamed(value: Any, place: Place, *, back: bool = False) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(item, place) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    names = (place.word("n"), "zqn" + "0" * 8)
    return value.replace(*(reversed(names) if back else names))


def _plain(answer: Answer) -> str:
    """A response without what differs between any two."""
    kept = {key: value for key, value in answer.headers.items() if key not in {"date", "x-request-id"}}
    return f"{answer.status} {kept} {answer.body!r}"


def test_a_head_says_no_more_than_a_get(known: World) -> None:
    for who in ("nobody", "bob", "ann: reads one"):
        words = forbidden(who, known)
        for _, rule, _, request, verdict in every_request(known, who, pages=False):
            if request["method"] == "GET":
                answer = known.send(**request | {"method": "HEAD"}, token=known.tokens[who], headers=of_page(rule))
                assert_verdict(answer, verdict, ("HEAD", who, request))
                assert_silent(answer, words, ("HEAD", who, request))


def test_who_knows_what_a_hidden_file_is_hears_nothing_of_it(known: World) -> None:
    for place in (PLACES[1], PLACES[2]):
        blob = next(word for word in known.words[place].read if len(word) == 40)
        for path in (f"/{place.id}/resolve/main/{place.word('f')}.bin", f"/{place.id}/raw/main/{place.word('f')}.txt"):
            for tag in (f'"{known.oids[place]["lfs"]}"', f'"{blob}"', "*"):
                for condition in ({"if-none-match": tag}, {"if-range": tag, "range": "bytes=0-3"}):
                    for who, status in (("nobody", 401), ("bob", 403 if place.state == "gated" else 404)):
                        answer = known.send("GET", path, token=known.tokens[who], headers=condition)
                        assert answer.status == status and "etag" not in answer.headers


def test_old_names_lead_nobody_to_a_hidden_repo(known: World) -> None:
    for who in ("nobody", "bob", "ann: reads one", "publisher of one"):
        words = forbidden(who, known)
        for place in PLACES:
            prefix = "" if place.kind == "model" else f"{place.kind}s/"
            old = f"bob/{place.old_name}"
            for path in (f"/{prefix}{old}", f"/{prefix}{old}/tree/main", f"/{prefix}{old}/resolve/main/README.md"):
                for headers in ({}, {"accept": "text/html"}):
                    answer = known.send("GET", path, token=known.tokens[who], headers=headers)
                    assert_silent(answer, words, (who, path))
                    assert "see" in rights(who, place) or answer.status in {401, 404}, (who, path, answer.text)
            answer = known.send("GET", f"/api/{place.kind}s/{old}", token=known.tokens[who])
            assert_silent(answer, words, (who, old))
            assert (answer.status == 200) == ("see" in rights(who, place))


TRICKS: list[tuple[str, dict[str, str]]] = [
    ("", {"x-http-method-override": "DELETE"}),
    ("", {"x-original-url": "/api/models", "x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"}),
    ("?_method=DELETE&token={token}&access_token={token}", {}),
    ("?", {"authorization": "Basic Og=="}),
    ("?", {"authorization": "Bearer "}),
    ("?", {"cookie": "token={token}; hubkit_8750={token}"}),
    ("?", {"x-api-key": "{token}", "x-auth-token": "{token}"}),
]


@pytest.mark.parametrize(("query", "headers"), TRICKS)
def test_no_other_header_or_query_gives_rights(known: World, query: str, headers: dict[str, str]) -> None:
    place, words = PLACES[1], forbidden("nobody", known)
    token = str(known.tokens["owner"])
    sent = {key: value.replace("{token}", token) for key, value in headers.items()}
    for path in (f"/api/models/{place.id}", f"/{place.id}", "/api/models", f"/{place.id}/resolve/main/README.md", "/"):
        answer = known.send("GET", path, query=query.lstrip("?").replace("{token}", token), headers=sent)
        assert_silent(answer, words, (path, query, headers))
        assert answer.status in ({200} if path in {"/", "/api/models"} else {401, 404}) or "authorization" in headers


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/{ns}/{name}/", "/api/models//{ns}/{name}", "/api/models/./{ns}/{name}",
        "/api/models/x/../{ns}/{name}",
        "/api/models/{ns}%2F{name}", "/api/MODELS/{ns}/{name}", "/{ns}/{name}/", "//{ns}/{name}",
        "/{ns}/{name}%00", "/{ns}/{name}.git", "/{ns}/{name}.git/info/refs", "/{ns}/{name}.git/HEAD",
        "/{ns}/public-x/../{name}", "/{ns}/%2e%2e/{ns}/{name}", "/api/models/{ns}/{name}/..", "/models/{ns}/{name}",
        "/api/datasets/{ns}/{name}", "/api/spaces/{ns}/{name}", "/datasets/{ns}/{name}", "/git/{uid}.git/HEAD",
        "/{ns}/{name}/resolve/main/..%2f..%2fREADME.md", "/static/..%2fhub.sqlite", "/static/%2e%2e/owner.token",
        "/api/models/{ns}/{name}?token={token}", "/lfs/{uid}/{lfs}", "/lfs/{uid}/{lfs}?size=1",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_shows_a_hidden_repo(known: World, path: str) -> None:
    for place in (PLACES[1], ONE):
        filled_path = filled(path, place, known).replace("{token}", str(known.tokens["owner"]))
        address, _, query = filled_path.partition("?")
        for who in ("nobody", "bob"):
            for method in ("GET", "HEAD", "POST", "OPTIONS", "TRACE", "PROPFIND"):
                answer = known.send(method, address, query=query, token=known.tokens[who])
                assert_silent(answer, forbidden(who, known), (method, path))
                assert answer.status >= 400, (method, path, answer.status)
