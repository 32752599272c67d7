"""The pages in a real browser: hostile cards run nothing, revisions are switched, logins read and never write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import raw_commits
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import httpx

from hubkit.server.process import Running

SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20" onload="window.__ran='onload'">
<script>window.__ran='svg'; console.log('executed')</script><rect width="40" height="20" fill="red"/>
<foreignObject width="9" height="9">
<img xmlns="http://www.w3.org/1999/xhtml" src="x" onerror="window.__ran=1"/></foreignObject>
<image href="https://evil.example/from-svg.png" width="1" height="1"/></svg>"""
RUN = "window.__ran=1;console.log('executed');alert(1)"
HOSTILE = f"""---
license: mit
tags: ["<script>{RUN}</script>", "\\"><img src=x onerror={RUN}>", "\\u202egnp.exe"]
base_model: "javascript:{RUN}"
---
# A hostile card

<script>{RUN}</script><SCRIPT SRC="https://evil.example/x.js"></SCRIPT>
<img src="absent.png" onerror="{RUN}" style="position:fixed;top:0;left:0;width:100vw;height:100vh">

![drawing](evil.svg) <img src="https://evil.example/tracker.png"> <img src="http://127.0.0.1:9/probe.png">

Text <a id="js" href="javascript:{RUN}">script</a> [data](data:text/html,<script>{RUN}</script>)
and <a href="java&Tab;script:{RUN}">tab</a>
[tricked]("onmouseover="{RUN}) [x](<javascript:{RUN}>) ![y]("onerror="{RUN})

<iframe src="https://evil.example/frame"></iframe><iframe srcdoc="<script>parent.{RUN}</script>"></iframe>
<form action="https://evil.example/form"><input name=q autofocus onfocus="{RUN}"><button>send</button></form>
<base href="https://evil.example/"><meta http-equiv="refresh" content="0;url=https://evil.example/refresh">
<style>body {{ display: none }} @import url(https://evil.example/x.css);</style>
<link rel="stylesheet" href="https://evil.example/x.css"><svg onload="{RUN}"><script>{RUN}</script></svg>
<h2 id="main">clobber</h2><h2 id="search">clobber</h2><details open ontoggle="{RUN}"><summary>more</summary>x</details>
<video src="https://evil.example/v.mp4" onerror="{RUN}" autoplay></video><object data="evil.svg"></object>
<noscript><p title="</noscript><img src=x onerror={RUN}>"></noscript><!--><script>{RUN}</script>-->
"""


class Watch:
    """What a page asks for and says while it is shown; nothing leaves this machine."""

    def __init__(self, page: Any, hub: Running) -> None:
        self.foreign: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.dialogs: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

        def route(route: Any) -> None:
            if route.request.url.startswith(f"{hub.url}/"):
                route.continue_()
            else:
                self.foreign.append((route.request.resource_type, route.request.url))
                route.abort()

        page.context.route("**/*", route)

    def check(self, page: Any) -> None:
        assert page.evaluate("window.__ran") is None
        assert not self.dialogs and not [text for text in self.said if text.startswith("executed")]
        assert all(kind == "image" and url.startswith("https://") for kind, url in self.foreign), self.foreign


@pytest.fixture
def hostile(hub: Running, api: HfApi) -> str:
    api.create_repo("me/hostile")
    files = {
        "README.md": HOSTILE,
        "evil.svg": SVG,
        "page.html": f"<script>{RUN}</script>",
        "<b>x.py": f"# </code><script>{RUN}</script>",
    }
    content = {name: text.encode() for name, text in files.items()}
    raw_commits.commit(hub, "me/hostile", content, f"<img src=x onerror={RUN}>\u202egnp")
    api.create_branch("me/hostile", branch='"><b>odd&é#%41')
    api.create_discussion("me/hostile", title=f"<script>{RUN}</script>", description=f"<img src=x onerror={RUN}>")
    return "me/hostile"


def test_a_hostile_card_runs_nothing(hub: Running, page: Any, hostile: str) -> None:
    watch = Watch(page, hub)
    page.goto(f"{hub.url}/{hostile}")
    assert page.get_by_role("heading", name="A hostile card").is_visible()
    watch.check(page)
    assert (
        page.locator("article.card script, article.card iframe, article.card form, article.card style, svg").count()
        == 0
    )
    assert page.locator("base, meta[http-equiv=refresh]").count() == 0
    assert page.locator("#main").evaluate("e => e.tagName") == "MAIN"
    assert page.locator("#search").evaluate("e => e.tagName") == "INPUT"
    assert page.locator("article.card img").first.evaluate("e => getComputedStyle(e).position") == "static"
    drawing = page.locator("article.card img[alt=drawing]")
    drawing.scroll_into_view_if_needed()
    drawing.evaluate("e => e.decode()")
    assert drawing.evaluate("e => e.naturalWidth") == 40
    for link in page.locator("article.card a").all():
        address = link.get_attribute("href")
        assert address is None or address.startswith(("/me/hostile/", "#card-", "https://")), address
    page.get_by_text("script", exact=True).click()  # it has no address any more
    assert page.url == f"{hub.url}/{hostile}"
    watch.check(page)


TAILS = [
    "tree/main", "commits/main", "commit/main", "discussions", "discussions/1", "blob/main/%3Cb%3Ex.py",
    "blob/main/page.html", "blob/main/evil.svg", "blob/main/README.md", "tree/%22%3E%3Cb%3Eodd%26%C3%A9%23%2541",
]  # fmt: skip


@pytest.mark.parametrize("tail", TAILS)
def test_no_page_of_a_hostile_repo_runs_anything(hub: Running, page: Any, hostile: str, tail: str) -> None:
    watch = Watch(page, hub)
    answer = page.goto(f"{hub.url}/{hostile}/{tail}")
    assert answer.status == 200 and page.locator(".head h1").count() == 1
    watch.check(page)
    assert page.locator("main script, main b:has-text('odd')").count() == 0


@pytest.mark.parametrize("name", ["evil.svg", "page.html"])
def test_a_file_opened_by_itself_runs_nothing(hub: Running, page: Any, hostile: str, name: str) -> None:
    watch = Watch(page, hub)
    answer = page.goto(f"{hub.url}/{hostile}/resolve/main/{name}")
    assert answer.status == 200
    watch.check(page)
    assert watch.foreign == []
    assert page.evaluate("document.contentType") in {"image/svg+xml", "text/plain"}
    assert page.evaluate("window.origin") == "null"  # a sandbox: it is nobody's page


# Revisions --------------------------------------------------------------------------------------------------


@pytest.fixture
def model(api: HfApi) -> str:
    api.create_repo("me/model")

    def commit(revision: str, **files: str) -> None:
        adds = [CommitOperationAdd(name, text.encode()) for name, text in files.items()]
        api.create_commit("me/model", adds, commit_message=f"to {revision}", revision=revision)

    table = "| " + " | ".join(f"column {n}" for n in range(20)) + " |\n" + "|---" * 20 + "|\n" + "| word " * 20 + "|\n"
    long = "x" * 300
    card = f"# Of main\n\n{table}\n`{long}`\n\n```python\ndef f(): return '{long}'\n```\n\nhttps://example.org/{long}\n"
    commit("main", **{"README.md": card, "only-main.txt": "m", f"{'n' * 200}.txt": long})
    api.create_branch("me/model", branch="dpo-v0", revision=api.list_repo_commits("me/model")[-1].commit_id)
    commit("dpo-v0", **{"README.md": "# Of dpo-v0\n", "only-dpo.txt": "d"})
    api.create_tag("me/model", tag="v1.0", revision="dpo-v0")
    return "me/model"


def test_a_click_changes_card_and_files(hub: Running, page: Any, model: str) -> None:
    page.goto(f"{hub.url}/{model}")
    assert page.locator("article h1").inner_text() == "Of main"
    commit = page.locator(".commit").get_attribute("title")
    page.locator(".menu summary").click()
    page.locator(".menu").get_by_role("link", name="dpo-v0").click()
    assert page.locator("article h1").inner_text() == "Of dpo-v0"
    assert page.locator(".menu summary").inner_text().split() == ["branch", "dpo-v0"]
    assert page.locator(".commit").get_attribute("title") != commit
    page.get_by_role("link", name="Files", exact=True).first.click()
    page.get_by_role("link", name="only-dpo.txt", exact=True).wait_for()
    page.locator(".menu summary").click()
    page.locator(".menu").get_by_role("link", name="main", exact=True).click()
    page.get_by_role("link", name="only-main.txt", exact=True).wait_for()
    assert page.url.endswith("/tree/main")
    page.get_by_role("link", name="Commits").click()
    assert page.get_by_role("link", name="to main").count() == 1


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.innerText || document.activeElement.tagName")).strip()


def tab_to(page: Any, name: str) -> None:
    """Press Tab until what is focused reads ``name``; it must be seen to be focused."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if focused(page) == name:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"{name} is not reached by the keyboard")


def test_the_keyboard_alone_changes_the_revision(hub: Running, page: Any, model: str) -> None:
    page.goto(f"{hub.url}/{model}")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to content"
    tab_to(page, "branch main")
    page.keyboard.press("Enter")
    tab_to(page, "v1.0")
    page.keyboard.press("Enter")
    page.wait_for_url("**/me/model?revision=v1.0")
    assert page.locator("article h1").inner_text() == "Of dpo-v0"
    assert page.locator(".menu summary").inner_text().split() == ["tag", "v1.0"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction(browser: Any, hub: Running, model: str, hostile: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    Watch(page, hub)
    name = f"{'n' * 200}.txt"
    tails = ["", "/tree/main", f"/blob/main/{name}", "/blob/main/README.md", "/commits/main", "/commit/main"]
    paths = ["/", "/models", "/me", "/absent/absent", f"/{hostile}", *(f"/{model}{tail}" for tail in tails)]
    for path in paths:
        page.goto(f"{hub.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.goto(f"{hub.url}/{model}")
    page.locator(".menu summary").click()
    box = page.locator(".menu .list").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    assert page.locator("article table").evaluate("e => e.scrollWidth > e.clientWidth")  # it scrolls by itself
    context.close()


CONTRAST = """() => {
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.closest('.unseen, .skip')) continue;
    const a = light(parts(getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push([e.className || e.tagName, ratio.toFixed(2)]);
  }
  return bad;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser: Any, hub: Running, api: HfApi, model: str, scheme: str) -> None:
    code = (
        "import re\n@x\nclass A(B):\n  '''doc'''\n  n: int = 1.5  # note\n  def f(self): return f'{len(x)}' and None\n"
    )
    card = (
        f"---\nlicense: [mit\n---\n# T\n```python\n{code}```\n> [!WARNING]\n> hot\n\n<mark>m</mark> <kbd>k</kbd> `c`\n"
    )
    adds = [CommitOperationAdd("README.md", b"x"), CommitOperationAdd("a.py", code.encode())]
    api.create_commit(model, adds, commit_message="m")
    # The client would refuse to send metadata as broken as this.
    lines = [
        {"key": "header", "value": {"summary": "s"}},
        {"key": "file", "value": {"path": "README.md", "content": card}},
    ]
    httpx.post(
        f"{hub.url}/api/models/{model}/commit/main", content="\n".join(json.dumps(line) for line in lines),
        headers={"Authorization": f"Bearer {hub.token}"},
    ).raise_for_status()  # fmt: skip
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    for path in (
        "/",
        f"/{model}",
        f"/{model}/tree/main",
        f"/{model}/blob/main/a.py",
        f"/{model}/commit/main",
        "/absent/x",
    ):
        page.goto(f"{hub.url}{path}")
        assert page.evaluate(CONTRAST) == [], path
        levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(e => Number(e.tagName[1]))")
        assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels)), path
        assert page.locator("main, header, footer, nav").count() >= 4 and page.locator("html[lang=en]").count() == 1
    context.close()


# Logging in -------------------------------------------------------------------------------------------------


@pytest.fixture
def hidden(api: HfApi) -> Iterator[str]:
    api.create_repo("me/hidden", private=True)
    adds = [CommitOperationAdd("README.md", b"# Hidden\n\n![a](a.svg)"), CommitOperationAdd("a.svg", SVG.encode())]
    api.create_commit("me/hidden", adds, commit_message="m")
    yield "me/hidden"


def test_the_owner_sees_a_private_repo_after_a_login(hub: Running, page: Any, hidden: str) -> None:
    assert page.goto(f"{hub.url}/{hidden}").status == 404
    asked = httpx.post(
        f"{hub.url}/api/hubkit/session", json={"next": f"/{hidden}"}, headers={"Authorization": f"Bearer {hub.token}"}
    )
    page.goto(asked.json()["url"])
    assert page.url == f"{hub.url}/{hidden}" and page.locator("article h1").inner_text() == "Hidden"
    image = page.locator("article img")
    image.evaluate("e => e.decode()")
    assert image.evaluate("e => e.naturalWidth") == 40
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["domain"]) == (True, "Strict", "127.0.0.1")
    for path in ("/api/whoami-v2", f"/api/models/{hidden}", "/api/hubkit/accounts"):
        assert page.context.request.get(f"{hub.url}{path}").status == 401
    assert page.context.request.post(f"{hub.url}/api/repos/create", data={"name": "me/made"}).status == 401
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{hub.url}/")
    assert page.context.cookies() == []
    assert page.goto(f"{hub.url}/{hidden}").status == 404


def test_a_link_on_a_page_logs_nobody_in(hub: Running, page: Any, api: HfApi) -> None:
    asked = httpx.post(f"{hub.url}/api/hubkit/session", json={}, headers={"Authorization": f"Bearer {hub.token}"})
    address = asked.json()["url"].removeprefix(hub.url)
    api.create_repo("me/trap")
    card = f"# Trap\n\n[come in]({address})\n\n<img src='{address}'>\n"
    api.create_commit("me/trap", [CommitOperationAdd("README.md", card.encode())], commit_message="m")
    page.goto(f"{hub.url}/me/trap")
    page.get_by_role("link", name="come in").click()
    assert page.locator("h1").inner_text() == "Access denied" and page.context.cookies() == []


# Spaces -----------------------------------------------------------------------------------------------------

APP = """import http.server, os
HUB = os.environ["HF_ENDPOINT"]
PAGE = '''<!doctype html><title>app</title><p id=out>working</p><script>
const hub = %r, out = [];
const attempts = [["GET", "/api/whoami-v2"], ["GET", "/api/models"], ["POST", "/api/repos/create"], ["POST", "/logout"],
                  ["POST", "/api/hubkit/session"], ["GET", "/me/hidden"], ["GET", "/me/hidden/resolve/main/README.md"]];
(async () => {
  for (const [method, path] of attempts) for (const mode of ["cors", "no-cors"])
    try { const body = method == "POST" ? "{}" : undefined;
          const a = await fetch(hub + path, {method, mode, credentials: "include", body});
          out.push(path + " " + mode + " " + a.type + a.status); }
    catch (error) { out.push("blocked"); }
  try { top.document.title; out.push("page read"); } catch (error) { out.push("blocked"); }
  try { top.location = "http://localhost:1/away"; } catch (error) { out.push("blocked"); }
  document.getElementById("out").textContent = "tried " + JSON.stringify(out);
})();
</script>''' %% HUB
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Type", "text/html"); self.end_headers()
        self.wfile.write(PAGE.encode())
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["GRADIO_SERVER_PORT"])), Answer).serve_forever()
"""


def space(api: HfApi, name: str, app: str) -> str:
    api.create_repo(name, repo_type="space", space_sdk="gradio")
    card = "---\ntitle: Try it\nsdk: gradio\napp_file: app.py\nmodels: [me/model]\n---\n"
    adds = [CommitOperationAdd("README.md", card.encode()), CommitOperationAdd("app.py", app.encode())]
    api.create_commit(name, adds, repo_type="space", commit_message="m")
    return f"/spaces/{name}"


def test_a_space_is_shown_in_its_page_and_has_no_rights(
    hub: Running, page: Any, api: HfApi, model: str, hidden: str
) -> None:
    path = space(api, "me/app", APP.replace("%%", "%"))
    asked = httpx.post(
        f"{hub.url}/api/hubkit/session", json={"next": path}, headers={"Authorization": f"Bearer {hub.token}"}
    )
    page.goto(asked.json()["url"])
    out = page.frame_locator("iframe.app").locator("#out")
    out.get_by_text("tried").wait_for(timeout=60_000)
    said = out.inner_text()
    assert "page read" not in said and " cors" not in said and "200" not in said, said
    assert page.url == f"{hub.url}{path}"
    assert page.locator("iframe.app").get_attribute("src").startswith("http://localhost:")
    assert page.context.request.get(f"{hub.url}/me/hidden").status == 200  # still logged in: nobody posted /logout
    page.goto(f"{hub.url}/me/model")
    link = page.locator("aside").get_by_role("link", name="me/app")
    assert link.get_attribute("href") == path
    assert page.locator("aside .stage").inner_text().endswith("running")


def test_a_space_that_fails_says_so(hub: Running, page: Any, api: HfApi) -> None:
    path = space(
        api, "me/broken", "print('<script>window.__ran=1</script>', flush=True)\nraise SystemExit('no <b>luck</b>')\n"
    )
    watch = Watch(page, hub)
    page.goto(f"{hub.url}{path}")
    page.get_by_role("heading", name="runtime error").wait_for(timeout=60_000)  # the page reloads itself until then
    assert page.locator(".log").count() == 0 and "hubkit hub open" in page.locator("main").inner_text()
    asked = httpx.post(
        f"{hub.url}/api/hubkit/session", json={"next": path}, headers={"Authorization": f"Bearer {hub.token}"}
    )
    page.goto(asked.json()["url"])
    assert "<script>window.__ran=1</script>" in page.locator(".log").inner_text()
    watch.check(page)
