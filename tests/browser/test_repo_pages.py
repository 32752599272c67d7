"""Pages of one repo in a real browser: code to copy, tensors, commits, discussions; with axe, on a phone, in the dark.

One Hub and one browser for all tests of this file. The repo is an ordinary one, with hostile names among its own.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import architectures
import photographs
import pytest
import raw_commits
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from PIL import Image, ImageDraw

from hubkit.server import process

RUN = "window.__ran=1"
HOSTILE = f"<img src=x onerror={RUN}><script>{RUN}</script>\u202e"
CARD = f"""---
license: apache-2.0
pipeline_tag: text-generation
tags: [chat]
---
# A small model

- [x] trained
- [ ] measured

| {" | ".join(f"column {n}" for n in range(20))} |
{"|---" * 20}|
| {"word | " * 20}

<img src="dot.png">

```python
print("{"long " * 60}")
```
"""


@dataclass(frozen=True)
class Site:
    """A Hub with a repo whose pages have all that pages can have."""

    url: str
    commits: tuple[str, ...]
    """The last first."""

    def paths(self) -> list[str]:
        """One page of each kind."""
        repo = "/me/m"
        blobs = ["config.json", "model.safetensors", "dot.png", "blob.bin"]
        return [
            "/", "/models", "/me", "/absent/absent", repo, f"{repo}/tree/main", 
            *(f"{repo}/blob/main/{name}" for name in blobs),
            f"{repo}/commits/main", f"{repo}/commit/{self.commits[0]}", f"{repo}/commit/{self.commits[1]}",
            f"{repo}/discussions", f"{repo}/discussions/1", f"{repo}/discussions/2", "/datasets/me/d", "/spaces/me/s",
            "/collections/" + self.collection,
        ]  # fmt: skip

    collection: str = ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("site")
    running = process.start(data / "hub", port=0)
    api = HfApi(endpoint=running.url, token=running.token)
    folder = architectures.make("llama-3", data / "m")
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    files = {"README.md": CARD.encode(), "dot.png": picture.getvalue(), "blob.bin": b"\0\1", "gone.txt": b"gone\n"}
    files |= {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    api.create_repo("me/m")
    api.create_commit("me/m", [CommitOperationAdd(name, data) for name, data in files.items()], commit_message="Add")
    settings = json.loads(files["config.json"]) | {"max_position_embeddings": 4096, HOSTILE: HOSTILE}
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    changed: list[Any] = [
        CommitOperationAdd("README.md", CARD.replace("[chat]", "[chat, small]").encode()),
        CommitOperationAdd("config.json", json.dumps(settings, indent=2).encode()),
        CommitOperationAdd("model.safetensors", bytes(weights)),
        CommitOperationDelete("gone.txt"),
    ]
    api.create_commit("me/m", changed, commit_message="Longer context")
    row = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps(
        {"__metadata__": {HOSTILE: HOSTILE}, HOSTILE: row, **{f"t.{n}": row for n in range(150)}}
    ).encode()
    odd = {f"odd {HOSTILE.replace('/', '')[:-1]}.txt": HOSTILE.encode()}
    api.create_commit(
        "me/m", [CommitOperationAdd("h.safetensors", struct.pack("<Q", len(header)) + header + b"\0" * 4)],
        commit_message="m",
    )  # fmt: skip
    raw_commits.commit(running, "me/m", odd, HOSTILE)
    text = f'Hello @me, is `config.json` **right**?\n\n```json\n{{"a": 1}}\n```\n\n{HOSTILE}\n\n![t](https://evil.example/t.png)'
    api.create_discussion("me/m", title="How long is its context?", description=text)
    api.create_pull_request("me/m", title=HOSTILE)
    api.create_commit("me/m", [CommitOperationAdd("a.txt", b"a\n")], commit_message=HOSTILE, revision="refs/pr/2")
    api.create_repo("me/d", repo_type="dataset")
    api.create_repo("me/s", repo_type="space", space_sdk="static")
    collection = api.create_collection("Small", namespace="me").slug
    commits = tuple(item.commit_id for item in api.list_repo_commits("me/m"))
    yield Site(running.url, (commits[0], commits[2]), collection)
    process.stop(data / "hub")


@pytest.fixture(scope="module")
def tab(browser: Any, site: Site) -> Iterator[Any]:
    """A tab that may use the clipboard; it fails for a request to another host, or a script of the repo that ran."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    context.set_default_timeout(30_000)
    page, foreign, violations = context.new_page(), [], []
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(site.url) else None)
    page.on("console", lambda message: violations.append(message.text) if "ontent" in message.text else None)
    page.foreign, page.violations = foreign, violations
    yield page
    assert foreign == [] and page.evaluate("window.__ran") is None
    context.close()


def focus(page: Any, name: str) -> None:
    """Reach the control called ``name`` with the Tab key alone."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''").strip() == name:
            return
    raise AssertionError(f"{name} is not reached with the Tab key")


def test_code_is_copied_with_the_keyboard_alone(site: Site, tab: Any) -> None:
    tab.goto(f"{site.url}/me/m")
    focus(tab, "Use this model")
    tab.keyboard.press("Enter")
    dialog = tab.get_by_role("dialog", name="Use this model")
    dialog.wait_for(state="visible")
    assert tab.evaluate("document.activeElement.innerText") == "Close"
    focus(tab, "Copy")
    tab.keyboard.press("Enter")
    dialog.get_by_role("button", name="Copied").wait_for()
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert f'os.environ["HF_ENDPOINT"] = "{site.url}"' in copied and 'model="me/m", revision="main"' in copied
    focus(tab, "Download")
    tab.keyboard.press("Enter")
    assert "hf download me/m --revision main" in dialog.locator("details[open] pre").inner_text()
    assert dialog.locator("details[open]").count() == 1
    tab.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert tab.evaluate("document.activeElement.innerText") == "Use this model"
    tab.locator("article.card .copier").click()
    assert tab.evaluate("navigator.clipboard.readText()").startswith('print("long')


def test_only_the_copy_script_may_run(site: Site, tab: Any) -> None:
    tab.goto(f"{site.url}/me/m")
    tried = tab.evaluate(
        """() => {
            const script = document.createElement('script');
            try { script.text = 'window.__ran = 1'; document.body.append(script); } catch (error) { return 'refused'; }
            return window.__ran ? 'ran' : 'blocked';
        }"""
    )
    assert tried in {"refused", "blocked"} and tab.evaluate("window.__ran") is None
    tab.violations.clear()


def test_pages_of_weights_commits_and_discussions(site: Site, tab: Any) -> None:
    tab.goto(f"{site.url}/me/m")
    tab.get_by_role("link", name="Names and shapes").click()
    tab.get_by_role("row", name="lm_head.weight").wait_for()
    tab.get_by_label("Name contains").fill("layers.1.mlp")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**tensor=layers.1.mlp")
    assert tab.locator("table.tensors tbody tr").count() == 3
    tab.goto(f"{site.url}/me/m/blob/main/h.safetensors")
    assert "\\u202e" in tab.locator("table.tensors").inner_text() and tab.locator("main img, main script").count() == 0
    tab.get_by_role("link", name="Next").click()
    tab.get_by_text("101–151 of 151").wait_for()
    tab.goto(f"{site.url}/me/m/commit/{site.commits[1]}")
    changed = tab.locator("details.change").all_inner_texts()
    assert [text.split()[:2] for text in changed] == [
        ["changed", "README.md"], ["changed", "config.json"], ["removed", "gone.txt"], ["changed", "model.safetensors"],
    ]  # fmt: skip
    assert '["chat", "small"]' in changed[0] and "max_position_embeddings" in changed[1] and "gone" in changed[2]
    assert "1 with other values" in changed[3] and tab.locator("main img, main script").count() == 0
    tab.goto(f"{site.url}/me/m/discussions/1")
    assert tab.get_by_role("link", name="@me").get_attribute("href") == "/me"
    assert tab.locator("main strong").inner_text() == "right" and tab.locator("main img[src], main script").count() == 0
    assert tab.violations == []


def test_axe_finds_nothing_serious_on_any_page(site: Site, tab: Any) -> None:
    """In the light all rules; in the dark what colors decide. With the dialog open, too."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NOT TESTED WITH AXE").Axe()
    found, checked = [], 0
    for path in site.paths():
        tab.goto(f"{site.url}{path}")
        if tab.locator("#use").count():
            tab.locator("button[popovertarget=use]").first.click()
        for scheme, options in (("light", {"resultTypes": ["violations"]}), ("dark", {"runOnly": ["color-contrast"]})):
            tab.emulate_media(color_scheme=scheme)
            result = axe.run(tab, options=options).response
            checked += bool(result["passes"])
            found += [
                (path, scheme, item["id"], item["nodes"][0]["html"])
                for item in result["violations"]
                if item["impact"] in {"serious", "critical"}
            ]
        tab.emulate_media(color_scheme="light")
    assert found == [] and checked == 2 * len(site.paths())


def test_a_phone_scrolls_down_only(site: Site, tab: Any) -> None:
    tab.set_viewport_size({"width": 360, "height": 740})
    for path in site.paths():
        tab.goto(f"{site.url}{path}")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, path
        if tab.locator("#use").count():
            tab.locator("button[popovertarget=use]").first.click()
            box = tab.locator("#use").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["height"] <= 740, path
            assert tab.locator("#use").evaluate("e => e.scrollWidth <= e.clientWidth"), path
    tab.set_viewport_size({"width": 1280, "height": 900})


def test_pictures_show_something(site: Site, tab: Any) -> None:
    """Pictures of the pages for docs/; a blank one is refused."""
    tab.goto(f"{site.url}/me/m")
    tab.get_by_role("button", name="Use this model").click()
    photographs.photograph(tab, "use", tab.get_by_role("dialog"), tab.locator("#use .copier").first)
    tab.goto(f"{site.url}/me/m/blob/main/model.safetensors")
    photographs.photograph(tab, "tensors", tab.get_by_role("row", name="lm_head.weight"))
    tab.goto(f"{site.url}/me/m/commit/{site.commits[1]}")
    photographs.photograph(tab, "commit", tab.get_by_text("max_position_embeddings").first)
    tab.goto(f"{site.url}/me/m/discussions/1")
    photographs.photograph(tab, "discussion", tab.get_by_role("link", name="@me"))
    tab.goto("about:blank")
    with pytest.raises(AssertionError, match="nothing is on"):
        photographs.photograph(tab, "nothing")
    picture, faint = io.BytesIO(), Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(faint).text((5, 5), "a line", "black")
    faint.save(picture, "PNG")
    assert photographs.blank(picture.getvalue()), "one short line is no page"
