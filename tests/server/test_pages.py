"""The pages as a browser asks for them: what they show, to whom, and which requests they refuse."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import httpx

from hubkit.server import process
from hubkit.server.process import Running

HTML = {"Accept": "text/html,application/xhtml+xml"}
SCRIPT = (Path(__file__).parents[2] / "toolkit/hubkit/server/pages/static/copy.js").read_text(encoding="utf-8")
CARD = """---
license: apache-2.0
language: [en, de]
library_name: transformers
pipeline_tag: text-generation
base_model: me/base
datasets: [me/set, other/elsewhere]
tags: [dpo, "<b>bold</b>"]
model-index:
- name: m
  results:
  - task: {type: text-generation}
    dataset: {name: "<i>facts</i>", type: facts}
    metrics: [{type: acc, value: 0.98765432}, {type: broken, value: [1]}]
---
# The main card

| a | b |
|---|---|
| 1 | 2 |

![picture](<img/a b.png>) and [a file](<docs/x y.md>)
"""


@pytest.fixture
def web(hub: Running) -> Iterator[httpx.Client]:
    """A browser that is not logged in, as far as HTTP goes."""
    with httpx.Client(base_url=hub.url, headers=HTML, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def model(api: HfApi) -> str:
    """me/model: main, the branch ``feat/ü#1``, the tag ``v1 0``-like ``v1.0``; each with its card."""
    api.create_repo("me/model")
    header = b'{"w": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]}}'
    files = {
        "README.md": CARD.encode(), "src/app.py": b"def f():\n    return '<script>'\n", "docs/x y.md": b"hi\n",
        "model.safetensors": struct.pack("<Q", len(header)) + header + b"\0" * 24, "img/a b.png": b"\x89PNG",
        "odd/100% #1?&.txt": b"odd\n", "data.xyz": b"\0\1", "empty.txt": b"",
    }  # fmt: skip
    api.create_commit(
        "me/model", [CommitOperationAdd(k, v) for k, v in files.items()], commit_message="First <b>one</b>"
    )
    api.create_tag("me/model", tag="v1.0")
    api.create_branch("me/model", branch="feat/ü#1")
    changes = [CommitOperationAdd("README.md", b"# The other card\n"), CommitOperationDelete("src/app.py")]
    api.create_commit("me/model", changes, commit_message="Another\n\nwith a body", revision="feat/ü#1")
    return "me/model"


def text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, (answer.status_code, answer.text[:300])
    policy = answer.headers["content-security-policy"]
    scripts = re.findall(r"<script\b(.*?)</script>", answer.text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{allowed}';" in policy and "unsafe" not in policy
    assert set(scripts) <= {f">{SCRIPT}"} and answer.text.count("<script") == len(scripts)
    return answer.text.replace(f"<script>{SCRIPT}</script>", "")


def hrefs(html: str) -> list[str]:
    return re.findall(r'href="([^"]*)"', html)


def test_a_repo_has_its_card_chips_and_relations(api: HfApi, web: httpx.Client, model: str) -> None:
    api.create_repo("me/base")
    api.create_repo("me/set", repo_type="dataset")
    html = text(web.get("/me/model"))
    assert "The main card</h1>" in html and "<td>1</td>" in html
    for chip in ("apache-2.0", "text-generation", "transformers", "<bdi>de</bdi>", "&lt;b&gt;bold&lt;/b&gt;"):
        assert chip in html
    assert "license: apache" not in html and "<b>bold" not in html and "&lt;i&gt;facts" in html and "0.9877" in html
    assert {"/me/base", "/datasets/me/set", "/me/model/blob/main/docs/x%20y.md"} <= set(hrefs(html))
    assert "/datasets/other/elsewhere" not in hrefs(html) and "other/elsewhere" in html
    assert 'src="/me/model/resolve/main/img/a%20b.png"' in html and 'title="12"' in html and "BF16" in html
    assert "Fine-tunes" in text(web.get("/me/base")) and "/me/model" in hrefs(text(web.get("/me/base")))
    chip = next(href for href in hrefs(html) if "filter=license" in href)
    assert "me/model" in text(web.get(chip)) and "me/base" not in text(web.get(chip))


def test_each_revision_has_its_card_and_files(web: httpx.Client, model: str) -> None:
    branch = quote("feat/ü#1", safe="")
    html = text(web.get("/me/model", params={"revision": "feat/ü#1"}))
    assert "The other card" in html and "The main card" not in html
    assert f"/me/model/tree/{branch}" in hrefs(html) and "/me/model?revision=v1.0" in hrefs(html)
    assert "The main card" in text(web.get("/me/model?revision=v1.0"))
    files = text(web.get(f"/me/model/tree/{branch}"))
    assert "The other card" in files and "src/" not in files
    assert "The main card" in text(web.get("/me/model/tree/main"))
    assert web.get("/me/model?revision=absent").status_code == 404
    assert web.get("/me/model/tree/absent").status_code == 404


def test_the_menu_keeps_the_file_where_the_other_revision_has_it(web: httpx.Client, model: str) -> None:
    branch = quote("feat/ü#1", safe="")
    links = hrefs(text(web.get("/me/model/blob/main/README.md")))
    assert f"/me/model/blob/{branch}/README.md" in links and "/me/model/blob/v1.0/README.md" in links
    links = hrefs(text(web.get("/me/model/blob/main/src/app.py")))
    assert f"/me/model/tree/{branch}" in links and "/me/model/blob/v1.0/src/app.py" in links
    links = hrefs(text(web.get("/me/model/tree/main/src")))
    assert f"/me/model/tree/{branch}" in links and "/me/model/tree/v1.0/src" in links


def test_files_with_sizes_marks_and_odd_names(web: httpx.Client, model: str) -> None:
    html = text(web.get("/me/model/tree/main"))
    assert html.index("odd</bdi>/") < html.index("README.md") and 'title="98 bytes"' in html
    assert re.search(r'<span class="badge" title="sha256 [0-9a-f]{64}">LFS', html)
    assert "First &lt;b&gt;one&lt;/b&gt;" in html
    odd = next(href for href in hrefs(text(web.get("/me/model/tree/main/odd"))) if "/blob/main/odd/" in href)
    assert "<code>odd" in text(web.get(odd))
    down = next(href for href in hrefs(text(web.get(odd))) if href.endswith("?download=true"))
    answer = web.get(down)
    assert answer.content == b"odd\n" and answer.headers["content-disposition"].startswith("attachment;")


def test_a_file_is_shown_as_what_it_is(web: httpx.Client, model: str) -> None:
    code = text(web.get("/me/model/blob/main/src/app.py"))
    assert '<span class="hl-k">def</span>' in code and "&lt;script&gt;" in code and 'id="L2"' in code
    weights = text(web.get("/me/model/blob/main/model.safetensors"))
    assert re.search(r"SHA256</dt><dd><code>[0-9a-f]{64}", weights) and "98 bytes" in weights and "BF16" in weights
    assert '<img src="/me/model/resolve/main/img/a%20b.png"' in text(web.get("/me/model/blob/main/img/a%20b.png"))
    assert "Stored with Git LFS" in text(web.get("/me/model/blob/main/data.xyz"))
    assert "empty" in text(web.get("/me/model/blob/main/empty.txt"))
    assert web.get("/me/model/blob/main/src").headers["location"] == "/me/model/tree/main/src"
    assert web.get("/me/model/blob/main/absent").status_code == 404
    assert web.get("/me/model/tree/main/README.md").status_code == 404


def test_commits_are_listed_page_by_page(api: HfApi, web: httpx.Client, model: str) -> None:
    for number in range(33):
        api.create_commit(model, [CommitOperationAdd("n", str(number).encode())], commit_message=f"number {number}.")
    first, second = text(web.get("/me/model/commits/main")), text(web.get("/me/model/commits/main?p=1"))
    assert "number 32." in first and "number 3." in first and "number 2." not in first and "?p=1" in hrefs(first)
    assert "number 2." in second and "initial commit" in second and "?p=2" not in hrefs(second)
    branch = text(web.get(f"/me/model/commits/{quote('feat/ü#1', safe='')}"))
    sha = next(href for href in hrefs(branch) if "/commit/" in href)
    html = text(web.get(sha))
    assert "Another" in html and "with a body" in html and ">removed</span>" in html and "src/app.py" in html
    oldest = api.list_repo_commits(model)[-1].commit_id
    assert ".gitattributes" in text(web.get(f"/me/model/commit/{oldest}"))


def test_lists_are_searched_filtered_and_paged(api: HfApi, web: httpx.Client) -> None:
    for number in range(32):
        api.create_repo(f"me/m{number:02}")
    api.create_repo("me/set", repo_type="dataset")
    api.create_repo("me/app", repo_type="space", space_sdk="static")
    seen = [set(re.findall(r"me/m\d\d", text(web.get(f"/models?p={page}")))) for page in (0, 1, 2)]
    assert [len(names) for names in seen] == [30, 2, 0] and len(seen[0] | seen[1]) == 32
    assert "me/set" in text(web.get("/")) and "me/set" not in text(web.get("/models"))
    assert "me/app" in text(web.get("/spaces")) and "me/app" not in text(web.get("/datasets"))
    found = text(web.get("/models?search=M07"))
    assert set(re.findall(r"me/m\d\d", found)) == {"me/m07"} and 'value="M07"' in found
    links = [href for href in hrefs(text(web.get("/models?search=m"))) if "p=1" in href]
    assert links == ["?search=m&amp;p=1"]
    assert "&lt;script&gt;" in web.get("/models?search=<script>").text
    assert web.get("/models?p=x").status_code == 400
    assert "me/app" in text(web.get("/me")) + text(web.get("/me?p=1")) and web.get("/nobody").status_code == 404


def test_what_is_missing_is_a_page_for_browsers_and_json_for_clients(api: HfApi, web: httpx.Client, model: str) -> None:
    for path in (
        "/a/b",
        "/datasets/a/b",
        "/a/b/tree/main",
        "/me/model/blob/main/x",
        "/a/b/c/d/e",
        "/me/model/commit/beef123",
    ):
        answer = web.get(path)
        assert answer.status_code == 404 and answer.headers["content-type"].startswith("text/html"), path
        assert "<h1>" in answer.text and "www-authenticate" not in answer.headers
    for path in ("/api/models/a/b", "/api/nothing", "/api/x/y"):
        answer = web.get(path)
        assert answer.status_code in {401, 404} and "error" in answer.json(), path
    answer = web.get("/a/b", headers={"Accept": "*/*"})
    assert answer.status_code == 404 and answer.headers["x-error-code"] == "RepoNotFound" and "error" in answer.json()
    assert web.post("/api/nothing").status_code == 404


def test_no_readme_and_a_main_that_is_gone(api: HfApi, web: httpx.Client, hub: Running) -> None:
    api.create_repo("me/bare")
    assert "no card yet" in text(web.get("/me/bare"))
    process.stop(hub.data)
    shutil.rmtree(next((hub.data / "git").iterdir()) / "refs" / "heads")
    (next((hub.data / "git").iterdir()) / "refs" / "heads").mkdir()
    running = process.start(hub.data, port=0)
    with httpx.Client(base_url=running.url, headers=HTML, trust_env=False) as client:
        for path in ("/me/bare", "/me/bare/tree/main", "/me/bare/commits/main"):
            answer = client.get(path)
            assert answer.status_code == 520 and "me/bare is damaged" in answer.text, path
        assert "me/bare" in text(client.get("/models")) and "damaged" in text(client.get("/models"))


def test_a_moved_repo_leads_to_its_new_address(api: HfApi, web: httpx.Client, model: str) -> None:
    api.move_repo("me/model", "me/newer")
    answer = web.get("/me/model/tree/v1.0?x=1")
    assert (answer.status_code, answer.headers["location"]) == (307, "/me/newer/tree/v1.0?x=1")
    assert web.get("/ME/newer").headers["location"] == "/me/newer"


def test_discussions_are_read_as_markdown(api: HfApi, web: httpx.Client, model: str) -> None:
    api.create_discussion(model, title="<b>why</b>", description="**x** <script>1</script>")
    pull = api.create_pull_request(model, title="a change")
    api.create_commit(
        model, [CommitOperationAdd("y", b"y")], commit_message="in the request", revision=pull.git_reference or ""
    )
    html = text(web.get("/me/model/discussions"))
    assert "&lt;b&gt;why" in html and "Pull request #2" in html
    thread = text(web.get("/me/model/discussions/1"))
    assert "<strong>x</strong>" in thread and "&lt;b&gt;why" in thread
    assert "/me/model/tree/refs%2Fpr%2F2" in hrefs(text(web.get("/me/model/discussions/2")))
    assert "<bdi>y</bdi>" in text(web.get("/me/model/tree/refs%2Fpr%2F2"))
    assert "refs/pr" not in text(web.get("/me/model")) and web.get("/me/model/discussions/9").status_code == 404


# Who sees what ----------------------------------------------------------------------------------------------


def login(hub: Running, web: httpx.Client, next_page: str = "/", token: str | None = None) -> str:
    answer = httpx.post(
        f"{hub.url}/api/hubkit/session", json={"next": next_page},
        headers={"Authorization": f"Bearer {token or hub.token}"}, trust_env=False,
    )  # fmt: skip
    return str(answer.raise_for_status().json()["url"])


@pytest.fixture
def private(api: HfApi) -> str:
    """me/hidden, with a picture."""
    api.create_repo("me/hidden", private=True)
    adds = [CommitOperationAdd("README.md", b"# Hidden card"), CommitOperationAdd("a.svg", b"<svg/>")]
    api.create_commit("me/hidden", adds, commit_message="m")
    return "me/hidden"


def test_a_private_repo_is_to_a_stranger_as_if_it_were_not(web: httpx.Client, private: str) -> None:
    for tail in ("", "/tree/main", "/blob/main/README.md", "/commits/main", "/commit/main", "/discussions"):
        one, other = web.get(f"/me/hidden{tail}"), web.get(f"/me/absent{tail}")
        assert one.status_code == other.status_code == 404 and one.text == other.text, tail
    assert all("me/hidden" not in web.get(path).text for path in ("/", "/models", "/me", "/models?search=hidden"))


def test_a_login_reads_pages_and_files_and_nothing_else(hub: Running, web: httpx.Client, private: str) -> None:
    answer = web.get(login(hub, web, "/me/hidden"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/me/hidden")
    answer_cookie = answer.headers["set-cookie"]
    cookie = answer_cookie.lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
    shown = web.get("/me/hidden")
    assert "Hidden card" in text(shown) and shown.headers["cache-control"] == "private, no-store"
    assert "Log out" in shown.text and "me/hidden" in text(web.get("/"))
    for way in ("resolve", "raw"):
        assert web.get(f"/me/hidden/{way}/main/a.svg").content == b"<svg/>"
        assert web.head(f"/me/hidden/{way}/main/a.svg").status_code == 200
    for path in ("/api/whoami-v2", "/api/models/me/hidden", "/api/hubkit/accounts", "/api/models/me/hidden/tree/main"):
        assert web.get(path).status_code == 401, path
    assert "hidden" not in web.get("/api/models").text
    assert web.post("/api/models/me/hidden/branch/x", json={}).status_code == 401
    assert web.post("/api/repos/create", json={"name": "me/made"}).status_code == 401
    assert web.post("/api/hubkit/session", json={}).status_code == 401
    batch = {"operation": "download", "objects": []}
    assert web.post("/me/hidden.git/info/lfs/objects/batch", json=batch).status_code in {401, 404}
    foreign = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert web.get("/me/hidden/resolve/main/a.svg", headers=foreign).status_code == 403
    answer = web.post("/logout", headers={"Origin": hub.url})
    assert answer.status_code == 303
    kept = re.match(r"[^;]+", answer_cookie)
    assert kept and not web.cookies
    assert web.get("/me/hidden", headers={"Cookie": kept[0]}).status_code == 404  # the server has forgotten it too


def test_a_login_link_works_once_and_not_from_a_page(hub: Running, web: httpx.Client, private: str) -> None:
    url = login(hub, web)
    for site in ("cross-site", "same-site", "same-origin"):
        sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert web.get(url, headers=sent).status_code == 403  # somebody else's link: logs in as somebody else
    assert web.head(url).status_code == 403
    assert web.get(url).status_code == 303
    web.cookies.clear()
    answer = web.get(url)
    assert answer.status_code == 403 and "set-cookie" not in answer.headers and "hubkit hub open" in answer.text
    assert web.get("/login?key=").status_code == web.get("/login").status_code == 403


def test_a_login_ends_with_its_token(
    hub: Running, web: httpx.Client, raw: httpx.Client, private: str, make_token: Callable[..., str]
) -> None:
    web.get(login(hub, web, token=make_token("stranger")))
    assert web.get("/me/hidden").status_code == 404 and "stranger" in text(web.get("/"))
    web.cookies.clear()
    token = make_token("hubkit", "read")
    web.get(login(hub, web, token=token))
    assert "Hidden card" in text(web.get("/me/hidden"))
    held = next(one for one in raw.get("/api/hubkit/accounts").json() if one["name"] == "hubkit")["tokens"]
    for one in held:
        if one["role"] == "read":
            raw.delete(f"/api/hubkit/tokens/hubkit/{one['id']}")
    assert web.get("/me/hidden").status_code == 404


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "", "/a\r\nX: y", "/a b", "/\t/evil.example"],
)
def test_a_login_leads_nowhere_else(hub: Running, raw: httpx.Client, target: str) -> None:
    assert raw.post("/api/hubkit/session", json={"next": target}).status_code == 400


def test_only_a_bearer_of_a_token_gets_a_link(hub: Running) -> None:
    url = f"{hub.url}/api/hubkit/session"
    assert httpx.post(url, json={}, trust_env=False).status_code == 401
    assert httpx.post(url, json={}, auth=("user", hub.token), trust_env=False).status_code == 400
    shown = httpx.post(url, headers={"Authorization": f"Bearer {hub.token}"}, trust_env=False)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/login\?key=[\w-]{43}", shown.json()["url"])


def test_pages_have_one_host(hub: Running, web: httpx.Client, model: str) -> None:
    port = httpx.URL(hub.url).port
    answer = web.get("/me/model/tree/v1.0?x=1", headers={"Host": f"localhost:{port}"})
    assert (answer.status_code, answer.headers["location"]) == (307, f"{hub.url}/me/model/tree/v1.0?x=1")
    assert web.get("/api/models", headers={"Host": f"localhost:{port}"}).status_code == 200
    assert web.get("/me/model/resolve/main/README.md", headers={"Host": f"localhost:{port}"}).status_code == 200


def test_a_gated_repo_shows_its_card_and_keeps_its_files(api: HfApi, web: httpx.Client, model: str) -> None:
    api.update_repo_settings(model, gated="manual")
    html = text(web.get("/me/model"))
    assert "The main card" in html and "members of" in html
    assert "The other card" not in web.get("/me/model", params={"revision": "feat/ü#1"}).text
    for tail in ("/tree/main", "/blob/main/README.md", "/commits/main"):
        answer = web.get(f"/me/model{tail}")
        assert answer.status_code == 403 and answer.headers["content-type"].startswith("text/html")


def test_a_drawing_stands_in_a_sandbox(api: HfApi, web: httpx.Client, private: str) -> None:
    api.update_repo_settings(private, private=False)
    for way in ("resolve", "raw"):
        answer = web.get(f"/me/hidden/{way}/main/a.svg")
        assert answer.headers["content-type"] == "image/svg+xml"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.endswith("; sandbox") and "default-src 'none'" in policy and "script-src" not in policy


def test_no_template_takes_text_for_html() -> None:
    folder = Path(__file__).parents[2] / "toolkit/hubkit/server/pages/templates"
    paths = list(folder.glob("*.jinja"))
    assert paths
    for path in paths:
        source = path.read_text(encoding="utf-8")
        marked = re.findall(r"\{\{([^}]*)\| *safe *\}\}", source)
        assert {word.strip() for word in marked} <= {"card.html", "comment.html", "line"}, path.name
