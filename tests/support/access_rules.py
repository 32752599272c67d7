"""What each route of the Hub needs and what each kind of token may do, written as rules and never asked of the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from access_world import ONE, PLACES, Place, World

from hubkit.server.routes import unavailable

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


def full(who: str) -> bool:
    """Whether a token may do all that its user may."""
    return who in {"ann: write", "bob", "owner"} or who.endswith(" of team")


def collects(who: str, namespace: str) -> bool:
    """Whether a token may create and change collections in a namespace: none of the fine-grained ones has the right."""
    return creates(who, namespace) and who != "ann: her namespace"


Need = Literal[
    "nothing", "token", "person", "owner", "watch", "member", "create", "collect", "signature", "see", "read", "copy",
    "inspect", "write", "manage", "discuss", "propose", "moderate", "ask", "settings", "missing", "501",
    "xet",
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
CAS = "/api/xet/{address}"
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
    "POST /api/hubkit/snapshot": Rule("owner"),
    "POST /api/hubkit/gc": Rule("owner", (try_(body={}),)),
    "GET /api/hubkit/metrics": Rule("watch"),
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
    "GET /api/users/{account}/likes": Rule("nothing", (try_(account="{ns}"), try_(account="zed"))),
    "GET /api/organizations/{account}/members": Rule("nothing", (try_(account="{ns}"),)),
    "GET /api/users/{account}/followers": Rule("nothing", (try_(account="{ns}"),)),
    "GET /api/users/{account}/following": Rule("nothing", (try_(account="{ns}"),)),
    "GET /api/organizations/{account}/followers": Rule("nothing", (try_(account="{ns}"),)),
    f"POST {API}/like": Rule("discuss"),
    f"DELETE {API}/like": Rule("discuss"),
    f"GET {API}/likers": Rule("read"),
    "DELETE /api/{kind:kind}/{name}/like": Rule("missing"),
    "/ask-access": Rule("ask", (try_(body={}),)),
    f"GET {API}/user-access-request/{{status}}": Rule("manage", (try_(status="pending"), try_(status="accepted"))),
    f"POST {API}/user-access-request/handle": Rule("manage", (try_(body={}),)),
    f"POST {API}/user-access-request/grant": Rule("manage", (try_(body={"user": "absent"}),)),
    "GET /api/settings/webhooks": Rule("settings"),
    "POST /api/settings/webhooks": Rule("settings", (try_(body={}),)),
    "GET /api/settings/webhooks/{webhook}": Rule("settings", (try_(webhook="absent"),)),
    "POST /api/settings/webhooks/{webhook}": Rule("settings", (try_(webhook="absent", body={}),)),
    "DELETE /api/settings/webhooks/{webhook}": Rule("settings", (try_(webhook="absent"),)),
    "POST /api/settings/webhooks/{webhook}/enable": Rule("settings", (try_(webhook="absent"),)),
    "POST /api/settings/webhooks/{webhook}/disable": Rule("settings", (try_(webhook="absent"),)),
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
    f"POST {API}/lfs-files/duplicate": Rule(
        "copy", (try_(body={"target": {"type": "{type}", "name": "{id}"}, "files": "none"}),)
    ),
    "GET /api/models/{ns}/{name}/safetensors-metadata/{path:path}": Rule("read", (try_(path="absent"),)),
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
    ".git/info/lfs/locks": Rule("read"),
    ".git/info/lfs/locks ": Rule("write", (try_(body={}),)),
    ".git/info/lfs/locks/verify": Rule("propose", (try_(body={}),)),
    ".git/info/lfs/locks/{lock}/unlock": Rule("write", (try_(body={}, lock="absent"),)),
    ".git/info/refs": Rule("read"),
    "/info/refs": Rule("read", (try_("service=git-upload-pack"),)),
    "/info/refs?push": Rule("propose", (try_("service=git-receive-pack"),)),
    ".git/git-upload-pack": Rule("read", (try_(body=b""),)),
    "/git-upload-pack": Rule("read", (try_(body=b"0000"),)),
    ".git/git-receive-pack": Rule("propose", (try_(body=b""),)),
    "/git-receive-pack": Rule("propose", (try_(body=b"0000"),)),
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
    "501": Rule("501", (try_(rest="x"),)),
    f"GET {API}/xet-read-token/{{rev}}": Rule("read", (try_(rev="main"),)),
    f"GET {API}/xet-write-token/{{rev}}": Rule("propose", (try_(rev="main"),)),
    "GET /api/xet/data/{uid}/{hash}/{first}": Rule(
        "signature", (try_(uid="x", hash="0" * 64, first="0"), try_("signature=x", uid="x", hash="0" * 64, first="0"))
    ),
    f"POST {CAS}/v1/xorbs/default/{{hash}}": Rule("xet", (try_(address="x", hash="0" * 64),)),
    f"POST {CAS}/v1/shards": Rule("xet", (try_(address="x"),)),
    f"GET {CAS}/v1/chunks/{{prefix}}/{{hash}}": Rule("xet", (try_(address="x", prefix="default", hash="0" * 64),)),
    f"GET {CAS}/v1/reconstructions/{{hash}}": Rule("xet", (try_(address="x", hash="0" * 64),)),
    f"GET {CAS}/v2/reconstructions/{{hash}}": Rule("xet", (try_(address="x", hash="0" * 64),)),
    f"POST {CAS}/v1/telemetry": Rule("xet", (try_(body={}, address="x"),)),
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
NOT_HERE = {route.path for route in unavailable.ROUTES}
PREFIXES = (
    "/datasets/{ns}/{name}",
    "/spaces/{ns}/{name}",
    "/kernels/{ns}/{name}",
    "/{ns:account}/{name}",
    "/{ns}/{name}",
)


def rules_of(method: str, path: str) -> list[Rule]:
    """The rules of a route of the Hub; those with a query after their name are for its other uses."""
    name = f"{method} {path}"
    if path in NOT_HERE:
        return [RULES["501"]]
    if name not in RULES:
        prefix = next((prefix for prefix in PREFIXES if path.startswith(prefix)), None)
        tail = path.removeprefix(prefix or "")
        tail += " " * (method == "POST" and tail.endswith("/locks"))
        plain = (".git/", "/resolve/", "/raw/", "/info/", "/git-", "/ask-access")
        name = tail if tail.startswith(plain) else f"PAGE{tail}"
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
    method = min(route.methods - {"HEAD"})
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
        case "501":
            return "501"
        case "xet":  # a token of Xet alone, which its own tests try
            return "401"
        case "missing":
            return "401" if who == "nobody" else "404"
        case "settings":
            return "yes" if full(who) else refused
        case "token":
            return "yes" if who != "nobody" else "401"
        case "person":
            return "yes" if not who.startswith(("nobody", "publisher")) else refused
        case "owner":
            return "yes" if who == "owner" else refused
        case "watch":
            return "yes" if who in {"owner", "owner: read"} else refused
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
    if rule.need == "ask":  # of a repo that is not gated there is nothing to ask
        return "401" if who == "nobody" else "yes" if full(who) or place.state != "gated" else refused
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
