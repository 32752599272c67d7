"""Cards as HTML: shaped as GitHub and the Hub shape them, and nothing in them runs, leads astray or takes for ever."""

from __future__ import annotations

import re
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import until

from hubkit.server.pages import rendering
from hubkit.server.pages.markup import Place, card_html, code_lines
from hubkit.server.repos import metadata
from hubkit.server.repos.git import Change, Git
from hubkit.server.storage.cache import ResultCache

PLACE = Place("/datasets/me/set", "feat/ü")
REV = "feat%2F%C3%BC"


class Found(HTMLParser):
    """Every tag and attribute of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def values(self, tag: str, name: str) -> list[str | None]:
        return [attrs.get(name) for found, attrs in self.tags if found == tag]


def rendered(text: str) -> Found:
    return Found(card_html(text, PLACE))


def test_a_card_is_shaped_as_on_the_hub() -> None:
    text = (
        "# Title\n\n| a | b |\n|:--|--:|\n| 1 | ~~2~~ |\n\n- [x] done\n\n> [!WARNING]\n> hot\n\n"
        "note[^1] www.example.org\n\n"
        "```python\ndef f(): pass\n```\n\n```unknown-language\n<b>\n```\n\n[^1]: below\n\n"
        '<details open><summary>more</summary><div align="center"><img src="a.png" width="50%"></div></details>\n'
    )
    html, found = card_html(text, PLACE), rendered(text)
    assert [tag for tag, _ in found.tags].count("td") == 2 and found.values("td", "align") == ["left", "right"]
    assert '<td align="right"><s>2</s></td>' in html and '<h1 id="card-title">' in html
    assert '<span class="hl-k">def</span>' in html and "<code>&lt;b&gt;" in html
    assert found.values("input", "type") == ["checkbox"] and "markdown-alert-warning" in html
    assert {"#card-fn1", "#card-fnref1", "http://www.example.org"} <= set(found.values("a", "href"))
    assert found.values("div", "align")[-1] == "center" and found.values("details", "open") == [""]


LINKS = {
    "docs/a.md": f"/datasets/me/set/blob/{REV}/docs/a.md",
    "./docs/../b c.md?x=1#part": f"/datasets/me/set/blob/{REV}/b%20c.md#part",
    "docs/": f"/datasets/me/set/tree/{REV}/docs",
    "../../../../etc/passwd": f"/datasets/me/set/blob/{REV}/etc/passwd",
    "%2e%2e/x": f"/datasets/me/set/blob/{REV}/x",
    "#part": "#card-part",
    "/me/model": "/me/model",
    "//evil.example/x": "https://evil.example/x",
    "/\\evil.example": "https://evil.example",
    "https://example.org/a?b#c": "https://example.org/a?b#c",
    "mailto:me@example.org": "mailto:me@example.org",
    "javascript:alert(1)": None,
    "JaVaScRiPt:alert(1)": None,
    "java\tscript:alert(1)": None,
    "\x01javascript:alert(1)": None,
    "  javascript:alert(1)": None,
    "data:text/html,<script>1</script>": None,
    "vbscript:x": None,
    "file:///etc/passwd": None,
    "blob:x": None,
    "": None,
}


@pytest.mark.parametrize("address", LINKS)
def test_addresses_lead_into_the_repo_or_plainly_out_of_it(address: str) -> None:
    assert PLACE.link(address) == LINKS[address]


IMAGES = {
    "a.png": f"/datasets/me/set/resolve/{REV}/a.png",
    "https://example.org/a.png": "https://example.org/a.png",
    "http://127.0.0.1:9/a.png": None,
    "/login?key=x": None,
    "/me/model/resolve/main/a.png": "/me/model/resolve/main/a.png",
    "mailto:x": None,
    "data:image/svg+xml,<svg onload=alert(1)>": None,
}


@pytest.mark.parametrize("address", IMAGES)
def test_images_are_files_of_this_hub_or_come_by_https(address: str) -> None:
    assert PLACE.link(address, image=True) == IMAGES[address]


HOSTILE = """
<script>window.__ran=1</script><ScRiPt src=//evil.example/x.js></sCrIpT>
<img src=x onerror="window.__ran=1" style="position:fixed;inset:0" class="hl-k top" srcset="x 1x, javascript:y 2x">
<a href="javascript:window.__ran=1" onclick=1 target=_top rel=opener ping=//evil.example>a</a>
<a href="java&#10;script:1">b</a> <a href="&#106;avascript:1">c</a> [d](javascript:1) [e](&#x6A;avascript:1)
![f](javascript:1) [g]: javascript:1
[g] <javascript:alert(1)> <iframe src="https://evil.example"></iframe><iframe srcdoc="<script>1</script>">
</iframe><form action="/logout" method=post><button formaction=/logout>x</button>
<input type=text name=q autofocus onfocus=1></form>
<base href="https://evil.example/"><meta http-equiv=refresh content="0;url=https://evil.example">
<link rel=stylesheet href=//evil.example/x.css><style>body{display:none}</style><object data=x></object><embed src=x>
<svg onload="window.__ran=1"><script>1</script><a xlink:href="javascript:1">x</a></svg>
<math href="javascript:1">m</math>
<h2 id="main" name="search" class="top skip">clobber</h2><video src=x onerror=1></video><audio controls></audio>
<details ontoggle="window.__ran=1" open><summary>s</summary></details><marquee onstart=1>m</marquee>
<div style="background:url(javascript:1)">d</div><!--><script>window.__ran=1</script>-->
<noscript><p title="</noscript><img src=x onerror=window.__ran=1>"></noscript><xmp><img onerror=1></xmp>
<table background="javascript:1"><tr><td background=x>t</td></tr></table><img src="x` `onerror=1">
```python"><script>window.__ran=1</script>
</code></pre><script>window.__ran=1</script>
```
"""


def test_nothing_of_a_hostile_card_is_left_but_text() -> None:
    found = rendered(HOSTILE)
    tags = {tag for tag, _ in found.tags}
    known = {"a", "img", "h2", "details", "summary", "div", "p", "pre", "code", "span", "br", "input"}
    known |= {"table", "tbody", "tr", "td"}
    assert tags <= known, tags - known
    for tag, attrs in found.tags:
        for name, value in attrs.items():
            assert not name.startswith("on") and name not in {"style", "target", "name", "ping", "background"}, (
                tag,
                name,
            )
            assert name != "class" or all(re.fullmatch(r"hl-\w+", word) for word in (value or "").split()), value
            assert name not in {"href", "src", "srcset"} or re.match(r"/datasets/me/set/|#|https:", value or ""), value
            assert name != "id" or (value or "").startswith("card-")
    assert set(found.values("input", "type")) <= {"checkbox"} and None not in found.values("input", "disabled")
    assert set(found.values("a", "rel")) == {"nofollow noopener noreferrer ugc"}


def test_lines_of_code_are_text() -> None:
    assert code_lines("a = '<script>'\n\n", "x.py")[0].endswith("<span class=\"hl-s1\">'&lt;script&gt;'</span>")
    assert code_lines("a\n\nb", "no-such-kind") == ["a", "", "b"]
    assert code_lines("'''a\nb'''\n", "x.py") == [
        "<span class=\"hl-sd\">'''a</span>",
        "<span class=\"hl-sd\">b'''</span>",
    ]


def repo_with(folder: Path, content: str, name: str = "README.md") -> tuple[Git, Path, str]:
    git = Git.create(folder)
    tree = git.write_tree(None, [Change(name, git.write_blob(content.encode()))])
    return git, folder, git.write_commit(tree, [], "m", "me")


def shown(folder: Path, content: str) -> rendering.Card:
    card = rendering.card(*repo_with(folder, content), PLACE)
    assert card is not None
    return card


PROSE = "Some *text* with `code`, [a link](https://example.org/a) and www.example.org in it.\n\n" * 3000
SLOW = {
    "links": "http://a." * 30_000, "headings": "# a\n" * 100_000, "brackets": "[" * 500_000, "quotes": "> " * 200_000,
    "elements": "<div>" * 100_000, "lists": "".join("  " * depth + "- a\n" for depth in range(700)),
    "strings": "```python\n" + "'''a" * 60_000 + "\n```\n", "footnotes": "[^a]" * 100_000,
}  # fmt: skip


def test_a_long_card_is_quick_and_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    card = shown(tmp_path / "git", PROSE)
    assert time.monotonic() - begun < 5 and len(PROSE) > 240_000  # 0.6 s on an idle core
    assert card.html.count("<em>") == 3000
    monkeypatch.setattr(rendering, "_child", lambda job: pytest.fail("rendered again"))
    git = Git(tmp_path / "git")
    tree = git.write_tree(None, [Change("README.md", git.write_blob(PROSE.encode()))])
    assert rendering.card(git, tmp_path / "git", git.write_commit(tree, [], "n", "me"), PLACE) == card


@pytest.mark.parametrize("name", SLOW)
def test_no_card_takes_for_ever(tmp_path: Path, name: str) -> None:
    begun = time.monotonic()
    card = shown(tmp_path / "git", SLOW[name])
    assert time.monotonic() - begun < 15
    assert card.html or (card.plain == SLOW[name] and "too long" in card.note)


def test_a_huge_card_is_not_shown(tmp_path: Path) -> None:
    card = shown(tmp_path / "git", "a" * (rendering.CARD_LIMIT + 1))
    assert (card.html, card.plain) == ("", "") and "too large" in card.note


@pytest.mark.parametrize(("limit", "value"), [("_MEMORY", 2**20), ("_PATIENCE", 0.001)])
def test_a_renderer_that_fails_leaves_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    monkeypatch.setattr(rendering, limit, value)
    assert shown(tmp_path / "git", "# <b>x").plain == "# <b>x"


GROWING = {
    "fence": "```json\n" + "[1," * 300_000 + "\n```", "links": "<a href=x>" * 80_000, "images": "<img src=x>" * 80_000,
}  # fmt: skip


@pytest.mark.parametrize("name", GROWING)
def test_a_text_that_grows_is_shown_as_text(tmp_path: Path, name: str) -> None:
    card = shown(tmp_path / "git", GROWING[name])
    assert card.html == "" and card.plain == GROWING[name] and "too large" in card.note


def code(folder: Path, content: str) -> rendering.Code | None:
    git, path, commit = repo_with(folder, content, "x.py")
    entry = git.entry(commit, "x.py")
    assert entry is not None
    return rendering.code(path, entry)


def test_lines_without_number_get_none(tmp_path: Path) -> None:
    assert code(tmp_path / "few", "a = 1\n" * 19_000) not in (None, rendering.Code(plain="a = 1\n" * 19_000))
    assert code(tmp_path / "many", "\n" * 200_000) == rendering.Code(plain="\n" * 200_000)
    assert code(tmp_path / "dense", "- " * 2**17) is not None


def test_what_is_kept_is_bounded() -> None:
    kept = ResultCache(10, len)
    made = [kept.get(number, lambda: "abcd") for number in range(3)]
    assert made == ["abcd"] * 3 and [number in kept for number in range(3)] == [False, True, True]
    assert kept.get(9, lambda: "x" * 11) == "x" * 11 and 9 not in kept and 2 not in kept


def test_slow_cards_do_not_take_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, asked = threading.Event(), []

    def slow(job: dict[str, str]) -> str:
        asked.append(job["card"])
        assert free.wait(20)
        return "<p>made</p>"

    monkeypatch.setattr(rendering, "_child", slow)
    repos = [repo_with(tmp_path / str(number // 2), f"card {number // 2}") for number in range(0, 100, 2)]
    cards: list[rendering.Card | None] = []

    def show(repo: tuple[Git, Path, str]) -> None:
        cards.append(rendering.card(Git(repo[1]), repo[1], repo[2], PLACE))

    threads = [threading.Thread(target=show, args=(repo,)) for repo in repos]
    for thread in threads:
        thread.start()
    until(lambda: len(cards) >= 38, 20)
    assert len(asked) == 2 and len(cards) == 38 and {card.note[:8] for card in cards if card} == {"Too many"}
    free.set()
    for thread in threads:
        thread.join(20)
    assert [card.html for card in cards[38:] if card] == ["<p>made</p>"] * 12
    cards.clear()
    show(repos[0])
    show(repos[-1])
    assert [card.html for card in cards if card] == ["<p>made</p>"] * 2, "that it was busy must not be remembered"


FRONTS = {
    "---\nlicense: mit\n---\n# Body\n": ("# Body\n", False),
    "---\nlicense: [mit\n---\n# Body\n": ("# Body\n", True),
    "---\nlicense: mit\ntags: [a]\n\n# Body\n": ("\n# Body\n", True),
    "\ufeff---\r\nlicense: mit\r\n---\r\nBody": ("Body", False),
    "---\n\nA rule above, no metadata.\n": ("---\n\nA rule above, no metadata.\n", False),
    "Body\n---\nx: 1\n---\n": ("Body\n---\nx: 1\n---\n", False),
}


@pytest.mark.parametrize("text", FRONTS)
def test_metadata_is_never_shown_as_text(tmp_path: Path, text: str) -> None:
    body, wrong = FRONTS[text]
    assert metadata.body(text) == body
    card = shown(tmp_path / "git", text)
    assert bool(card.metadata_error) == wrong and "license" not in card.html


def test_what_is_no_text_is_not_shown_as_text(tmp_path: Path) -> None:
    git, path, commit = repo_with(tmp_path / "git", "a\0b", "x.py")
    entry = git.entry(commit, "x.py")
    assert entry is not None and rendering.code(path, entry) is None
    git, path, commit = repo_with(tmp_path / "other", "x" * (rendering.CODE_LIMIT + 1), "x.py")
    entry = git.entry(commit, "x.py")
    assert entry is not None and rendering.code(path, entry) is None
