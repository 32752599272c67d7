"""Every route, for tokens of every kind, on repos of every kind: what it may answer, and which words it may say.

What is expected is written down here as rules (:func:`rights`, :data:`RULES`) and never asked of the Hub. A route that
is not in :data:`RULES` fails the test until somebody has decided what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from access_world import ONE, PLACES, WORD, Answer, Place, World, world

from hubkit.server.app import ROUTES

pytestmark = pytest.mark.fault("A3")

MEMBERS = {"ann": {"ann"}, "bob": {"bob"}, "reader": {"team"}, "writer": {"team"}, "boss": {"team"}}
DEAD = ("revoked", "expired", "unknown")


def rights(who: str, place: Place) -> set[str]:
    """What a token may do with a repo.

    See that it exists, read its files, inspect a Space's logs and names of secrets, write it, manage it (delete, move,
    change who sees it), discuss, propose.
    """
    user, _, what = who.partition(": ")
    user = {"reader of team": "reader", "writer of team": "writer", "admin of team": "boss"}.get(who, user)
    everybody = {"public": {"see", "read"}, "gated": {"see"}}.get(place.state, set())
    member = user == "owner" or place.ns in MEMBERS.get(user, set())
    inside = {"see", "read", "inspect"} if member else everybody
    writes = {"write", "manage"} if member and user != "reader" else set()
    talks = {"discuss", "propose"} if "read" in inside else set()
    match what:
        case "" if who == "publisher of one":  # no person's, so it discusses nothing
            return {"see", "read", "inspect", "write", "propose"} if place == ONE else everybody
        case "" if user in {"nobody", "publisher of a deleted repo"}:
            return everybody
        case "" | "write":
            return inside | writes | talks
        case "read":
            return inside
        case "reads one":
            return inside if place == ONE else everybody
        case "writes one":
            return inside | writes | {"propose"} if place == ONE else everybody
        case "her namespace":
            return inside | writes | talks if member else everybody
        case "discussions":
            return everybody | ({"discuss", "propose"} if "read" in everybody else set())
        case _:  # nothing, or rights that the account itself does not have
            return everybody


def creates(who: str, namespace: str) -> bool:
    """Whether a token may create repos in a namespace."""
    namespaces = {
        "ann: write": {"ann"}, "ann: her namespace": {"ann"}, "bob": {"bob"}, "writer of team": {"team"},
        "admin of team": {"team"}, "owner": {"ann", "bob", "team"},
    }  # fmt: skip
    return namespace in namespaces.get(who, set())


def collects(who: str, namespace: str) -> bool:
    """Whether a token may create and change collections in a namespace: none of the fine-grained ones has the right."""
    return creates(who, namespace) and who != "ann: her namespace"


Need = Literal[
    "nothing", "token", "person", "owner", "member", "create", "collect", "signature", "see", "read", "copy", "inspect",
    "write", "manage", "discuss", "propose", "moderate",
]  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """What a route needs, and requests that change nothing even when they are allowed (path parameters, query, body).

    ``page``: a page for browsers. ``cookie``: a browser's login counts.
    """

    need: Need
    tries: tuple[dict[str, Any], ...] = ({},)
    page: bool = False
    cookie: bool = False


def try_(query: str = "", body: Any = None, **params: str) -> dict[str, Any]:
    """One request to a route."""
    return {"query": query, "body": body, "params": params}


PAGE = {"page": True, "cookie": True}
AT_REVISIONS = tuple(try_(rev=revision) for revision in ("main", "branch-{b}", "refs%2Fpr%2F2", "{other}", "absent"))
AT_TWO = (try_(rev="main"), try_(rev="refs%2Fpr%2F2"))
FILES = (
    *(try_(rev="main", path=path) for path in ("{f}.txt", "{f}.bin", "absent")),
    try_(rev="refs%2Fpr%2F2", path="{o}.txt"),
)
BATCH = {"objects": [{"oid": "{lfs}", "size": 16}, {"oid": "0" * 64, "size": 3}]}
API = "/api/{kind:kind}/{ns}/{name}"
COLLECTION = "/api/collections/{ns}/{slug}"
RULES: dict[str, Rule] = {
    "GET /api/hubkit/status": Rule("nothing"),
    "GET /api/hubkit/accounts": Rule("owner"),
    "POST /api/hubkit/users": Rule("owner", (try_(body={}),)),
    "POST /api/hubkit/orgs": Rule("owner", (try_(body={}),)),
    "POST /api/hubkit/tokens": Rule("owner", (try_(body={}),)),
    "POST /api/hubkit/publishers": Rule("owner", (try_(body={"repo": "{id}", "secret": "x"}),)),
    "DELETE /api/hubkit/publishers": Rule("owner", (try_(body={}),)),
    "DELETE /api/hubkit/tokens/{user}/{token}": Rule("owner", (try_(user="ann", token="absent"),)),
    "POST /api/hubkit/session": Rule("person", (try_(body={}),)),
    "GET /api/hubkit/faults": Rule("owner"),
    "PUT /api/hubkit/faults": Rule("owner", (try_(body={}),)),
    "GET /api/whoami-v2": Rule("person"),
    "POST /api/validate-yaml": Rule("nothing", (try_(body={"content": "---\nbase_model: {id}\n---\n"}),)),
    "GET /api/agent-harnesses": Rule("nothing"),
    "GET /api/telemetry/{topic:path}": Rule("nothing", (try_(topic="x"),)),
    "GET /api/models-tags-by-type": Rule("nothing"),
    "GET /api/datasets-tags-by-type": Rule("nothing"),
    "GET /api/users/{account}/overview": Rule("nothing", (try_(account="{ns}"),)),
    "GET /api/organizations/{account}/overview": Rule("nothing", (try_(account="{ns}"),)),
    f"GET {API}/auth-check": Rule("read"),
    f"GET {API}/auth-check/{{right}}": Rule("write", (try_(right="write"),)),
    "POST /oauth/token": Rule("nothing", (try_(body={}),)),
    "GET /api/spaces/hardware": Rule("nothing"),
    "GET /api/spaces/templates": Rule("nothing"),
    "GET /api/spaces/zero-gpu/quota": Rule("token"),
    "GET /api/spaces/{ns}/{name}/runtime": Rule("read"),
    "GET /api/spaces/{ns}/{name}/secrets": Rule("inspect"),
    "POST /api/spaces/{ns}/{name}/secrets": Rule("write", (try_(body={}),)),
    "DELETE /api/spaces/{ns}/{name}/secrets": Rule("write", (try_(body={}),)),
    "GET /api/spaces/{ns}/{name}/variables": Rule("read"),
    "POST /api/spaces/{ns}/{name}/variables": Rule("write", (try_(body={}),)),
    "DELETE /api/spaces/{ns}/{name}/variables": Rule("write", (try_(body={}),)),
    "POST /api/spaces/{ns}/{name}/pause": Rule("write"),
    "POST /api/spaces/{ns}/{name}/restart": Rule("write"),
    "POST /api/spaces/{ns}/{name}/hardware": Rule("write", (try_(body={}),)),
    "POST /api/spaces/{ns}/{name}/sleeptime": Rule("write", (try_(body={"seconds": "x"}),)),
    "POST /api/spaces/{ns}/{name}/dev-mode": Rule("write", (try_(body={}),)),
    "PUT /api/spaces/{ns}/{name}/volumes": Rule("write", (try_(body={}),)),
    "DELETE /api/spaces/{ns}/{name}/volumes": Rule("write"),
    "GET /api/spaces/{ns}/{name}/logs/{which}": Rule("inspect", (try_(which="run"), try_(which="build"))),
    "POST /api/collections": Rule("collect", (try_(body={"title": "", "namespace": "{ns}"}),)),
    "GET /api/collections": Rule(
        "nothing", (try_(), try_("owner={ns}"), try_("item={type}s/{id}"), try_("item=papers/2305.18290&limit=1"))
    ),
    f"GET {COLLECTION}": Rule("nothing", (try_(slug="{collection}"),)),
    f"PATCH {COLLECTION}": Rule("collect", (try_(slug="{collection}", body={"title": ""}),)),
    f"DELETE {COLLECTION}": Rule("collect", (try_(slug="{collection}"),)),
    f"POST {COLLECTION}/items": Rule("collect", (try_(slug="{collection}", body={"item": {}}),)),
    f"PATCH {COLLECTION}/items/{{item}}": Rule("collect", (try_(slug="{collection}", item="absent", body={}),)),
    f"DELETE {COLLECTION}/items/{{item}}": Rule("collect", (try_(slug="{collection}", item="absent"),)),
    "GET /collections/{ns}/{slug}": Rule("nothing", (try_(slug="{collection}"),), **PAGE),
    "GET /api/settings/repositories": Rule("person"),
    "GET /api/organizations/{org}/settings/repositories": Rule("member", (try_(org="{ns}"),)),
    "POST /api/repos/create": Rule(
        "create", (try_(body={"name": "{name}", "organization": "{ns}", "type": "{type}", "sdk": "static"}),)
    ),
    "DELETE /api/repos/delete": Rule(
        "manage",
        (
            try_(body={"name": "{name}", "organization": "{ns}", "type": "{type}"}),
            try_(body={"name": "{old}", "organization": "bob", "type": "{type}"}),
        ),
    ),
    "POST /api/repos/move": Rule("manage", (try_(body={"fromRepo": "{id}", "toRepo": "not an id", "type": "{type}"}),)),
    "GET /api/{kind:kind}": Rule(
        "nothing",
        (
            try_(),
            try_("full=true"),
            try_("search=zq"),
            try_("author={ns}"),
            try_("search={name}"),
            try_("expand[]=siblings&expand[]=sha"),
            try_("limit=1&cursor=1"),
            try_("filter=region:us&sort=lastModified"),
        ),
    ),
    f"PUT {API}/settings": Rule("manage", (try_(body={"gated": "other"}),)),
    f"GET {API}": Rule("see", (try_(), try_("blobs=true"), try_("expand[]=siblings&expand=cardData"))),
    f"GET {API}/revision/{{rev}}": Rule("read", (*AT_REVISIONS, try_("blobs=1", rev="main"))),
    f"POST {API}/duplicate": Rule("copy", (try_(body={"repository": "not an id/x"}),)),
    f"GET {API}/refs": Rule("read", (try_(), try_("include_prs=1"))),
    f"POST {API}/branch/{{branch}}": Rule("write", (try_(branch="main"),)),
    f"DELETE {API}/branch/{{branch}}": Rule("write", (try_(branch="absent"),)),
    f"POST {API}/tag/{{rev}}": Rule("write", (try_(body={}, rev="main"),)),
    f"DELETE {API}/tag/{{tag}}": Rule("write", (try_(tag="absent"),)),
    f"GET {API}/commits/{{rev}}": Rule("read", AT_REVISIONS),
    f"POST {API}/super-squash/{{rev}}": Rule("write", (try_(body={}, rev="absent"),)),
    f"GET {API}/tree/{{rev}}": Rule("read", (*AT_REVISIONS, try_("recursive=1&expand=true", rev="main"))),
    f"GET {API}/tree/{{rev}}/{{path:path}}": Rule("read", (try_(rev="main", path="absent"),)),
    f"POST {API}/paths-info/{{rev}}": Rule("read", (try_(body={"paths": ["{f}.txt", "{f}.bin"]}, rev="main"),)),
    f"GET {API}/lfs-files": Rule("read"),
    f"POST {API}/lfs-files/batch": Rule("write", (try_(body={}),)),
    f"POST {API}/preupload/{{rev}}": Rule(
        "write",
        (try_(body={"files": [{"path": "{f}.txt", "size": 1}]}, rev="main"), try_(body={}, rev="refs%2Fpr%2F2")),
    ),
    f"POST {API}/preupload/{{rev}}?create_pr=1": Rule(
        "propose", (try_("create_pr=1", body={"files": [{"path": "{f}.txt", "size": 1}]}, rev="main"),)
    ),
    f"POST {API}/commit/{{rev}}": Rule("write", (try_(body=b"", rev="main"), try_(body=b"", rev="refs%2Fpr%2F2"))),
    f"POST {API}/commit/{{rev}}?create_pr=1": Rule("propose", (try_("create_pr=1", body=b"", rev="main"),)),
    "PUT /lfs/{uid}/{oid}": Rule("signature", (try_("size=1&expires=1&signature=x", body=b"x"),)),
    "GET /lfs/{uid}/{oid}": Rule("signature", (try_(), try_("size=16&expires=9999999999&signature=x"))),
    ".git/info/lfs/objects/batch": Rule("propose", (try_(body={"operation": "upload", **BATCH}),)),
    ".git/info/lfs/objects/batch?download": Rule("read", (try_(body={"operation": "download", **BATCH}),)),
    ".git/info/lfs/verify": Rule("propose", (try_(body={"oid": "{lfs}", "size": 1}),)),
    "/resolve/{rev}/{path:path}": Rule("read", FILES, cookie=True),
    "/raw/{rev}/{path:path}": Rule("read", FILES, cookie=True),
    f"GET {API}/discussions": Rule("read", (try_(), try_("type=pull_request&status=open&author=zed"))),
    f"POST {API}/discussions": Rule("discuss", (try_(body={}),)),
    f"GET {API}/discussions/{{num}}": Rule("read", (try_(num="1"), try_("diff=1", num="2"), try_(num="9"))),
    f"POST {API}/discussions/{{num}}/comment": Rule("discuss", (try_(body={}, num="1"),)),
    f"POST {API}/discussions/{{num}}/comment/{{event}}/edit": Rule(
        "moderate", (try_(body={"content": "x"}, num="1", event="{event}"),)
    ),
    f"POST {API}/discussions/{{num}}/comment/{{event}}/hide": Rule(
        "moderate", (try_(body={}, num="1", event="{event}"),)
    ),
    f"POST {API}/discussions/{{num}}/title": Rule("moderate", (try_(body={}, num="1"),)),
    f"POST {API}/discussions/{{num}}/status": Rule("moderate", (try_(body={}, num="1"),)),
    f"POST {API}/discussions/{{num}}/merge": Rule("write", (try_(body={}, num="1"),)),
    "GET /static/hubkit.css": Rule("nothing"),
    "GET /static/hubkit.svg": Rule("nothing"),
    "GET /": Rule("nothing", (try_(), try_("search=zq"), try_("filter=region:us"), try_("p=1")), **PAGE),
    "GET /models": Rule("nothing", **PAGE),
    "GET /datasets": Rule("nothing", **PAGE),
    "GET /spaces": Rule("nothing", **PAGE),
    "GET /login": Rule("signature", (try_(), try_("key=x")), **PAGE),
    "POST /logout": Rule("nothing"),
    "PAGE": Rule("see", (try_(), try_("revision=main")), **PAGE),
    "PAGE?revision": Rule("see", (try_("revision=branch-{b}"), try_("revision=refs/pr/2")), **PAGE),
    "PAGE/tree/{rev}": Rule("read", AT_TWO, **PAGE),
    "PAGE/tree/{rev}/{path:path}": Rule("read", (try_(rev="main", path="absent"),), **PAGE),
    "PAGE/blob/{rev}/{path:path}": Rule("read", FILES[1:], **PAGE),
    "PAGE/commits/{rev}": Rule("read", AT_TWO, **PAGE),
    "PAGE/commit/{rev}": Rule("read", AT_TWO, **PAGE),
    "PAGE/discussions": Rule("read", **PAGE),
    "PAGE/discussions/{num}": Rule("read", (try_(num="1"), try_(num="2"), try_(num="9")), **PAGE),
    "GET /{ns:account}": Rule("nothing", **PAGE),
}
PREFIXES = ("/datasets/{ns}/{name}", "/spaces/{ns}/{name}", "/{ns:account}/{name}", "/{ns}/{name}")


def rules_of(method: str, path: str) -> list[Rule]:
    """The rules of a route of the Hub; those with a query after their name are for its other uses."""
    name = f"{method} {path}"
    if name not in RULES:
        prefix = next((prefix for prefix in PREFIXES if path.startswith(prefix)), None)
        tail = path.removeprefix(prefix or "")
        name = tail if tail.startswith((".git/", "/resolve/", "/raw/")) else f"PAGE{tail}"
        assert prefix and name in RULES, f"{method} {path} is a new route: say in RULES what it needs"
    return [rule for key, rule in RULES.items() if key == name or key.startswith(f"{name}?")]


def filled(value: Any, place: Place, known: World) -> Any:
    """A request's values, with what stands for the words of a place replaced by them."""
    if isinstance(value, dict):
        return {key: filled(item, place, known) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, place, known) for item in value]
    if not isinstance(value, str):
        return value
    names = {letter: place.word(letter) for letter in "bftomx"} | known.oids[place]
    names |= {"ns": place.ns, "name": place.name, "id": place.id, "type": place.kind, "old": place.old_name}
    for name, word in (names | {"event": known.hidden[place]}).items():
        value = value.replace(f"{{{name}}}", word)
    return value


def requests(route: Any, rule: Rule, place: Place, known: World) -> Iterator[dict[str, Any]]:
    """The requests to make: of a route about repos of one type, for places of that type only."""
    method = next(iter(route.methods - {"HEAD"}))
    if route.fixed_params.get("kind", f"{place.kind}s") != f"{place.kind}s":
        return
    path = route.path.replace("{kind:kind}", f"{place.kind}s").replace("{ns:account}", "{ns}")
    path = path.replace(":path}", "}")
    for one in rule.tries:
        address = path
        for name, word in one.get("params", {}).items():
            address = address.replace(f"{{{name}}}", word)
        address = address.replace("{uid}", "{uid}").replace("{oid}", "{lfs}")
        yield {
            "method": method,
            "path": filled(address, place, known),
            "query": filled(one.get("query", ""), place, known),
            "body": filled(one.get("body"), place, known),
        }


def expected(rule: Rule, who: str, place: Place, method: str) -> str:
    """``yes``, or the status with which a token is refused."""
    may, refused = rights(who, place), "401" if who == "nobody" else "403"
    if who in DEAD:
        return "401"
    user = who.partition(":")[0]
    match rule.need:
        case "nothing":
            return "yes"
        case "signature":
            return "403"
        case "token":
            return "yes" if who != "nobody" else "401"
        case "person":
            return "yes" if not who.startswith(("nobody", "publisher")) else refused
        case "owner":
            return "yes" if who == "owner" else refused
        case "member":
            team = who.endswith(" of team") and place.ns == "team"
            return "yes" if team or user in {"owner", place.ns} else refused
        case "create":
            return "yes" if creates(who, place.ns) else refused
        case "collect":
            return "yes" if collects(who, place.ns) else refused
    if "see" not in may:
        return "401" if who == "nobody" and not rule.page else "404"
    if rule.need == "see":
        return "yes"
    if rule.need in {"read", "copy", "discuss", "propose", "moderate"} and "read" not in may:
        return "403" if rule.page else refused
    if rule.need == "copy":
        return "yes" if who != "nobody" else "401"
    needed = {"discuss", "write"} if rule.need == "moderate" else {str(rule.need)}
    return "yes" if needed <= may else refused


def forbidden(who: str, known: World) -> dict[str, str]:
    """Words that no answer to a token may contain, each with where it comes from."""
    words: dict[str, str] = {}
    for place in PLACES:
        may, of = rights(who, place) if who not in DEAD else set(), known.words[place]
        hidden = of.never | (set() if "inspect" in may else of.inspected)
        hidden |= (set() if "read" in may else of.read) | (set() if "see" in may else of.seen)
        words |= dict.fromkeys(hidden, str(place))
    return words


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
        for rule in rules_of(next(iter(route.methods - {"HEAD"})), route.path):
            used.add(id(rule))
    assert used == {id(rule) for rule in RULES.values()}, "a rule for a route that is no more"


def every_request(known: World, who: str, *, pages: bool) -> Iterator[tuple[Any, Rule, Place, dict[str, Any], str]]:
    """Every request to make with a token: route, rule, place, request and what is expected of it."""
    for route in ROUTES:
        assert route.methods is not None
        for rule in rules_of(next(iter(route.methods - {"HEAD"})), route.path):
            if rule.page and not pages:
                continue
            for place in PLACES if "{" in str(rule.tries) + route.path else PLACES[:1]:
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
    words, count = forbidden(who, known), 0
    for _, rule, _, request, verdict in every_request(known, who, pages=who in ON_PAGES):
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
