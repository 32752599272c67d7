"""What a person sees and does after a release: reads the card of either revision, and talks to both.

All that is checked is read from the pages. With ``HUBKIT_TEST_PICTURES`` set to a folder, its pictures are written
there (`make pictures` writes those of docs/).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from screenshots import picture
from tiny_release import REPO, Released

pytestmark = [pytest.mark.train, pytest.mark.timeout(1500)]


def test_the_card_changes_with_the_revision(released: Released, page: Any) -> None:
    page.goto(released.outcome["page"])
    picture(page, "page")
    main = page.locator("article.card").inner_text()
    assert "Tiny Hermes DPO" in main
    assert page.locator("article.card table").count() >= 2
    page.locator("details.menu summary").click()
    page.locator("details.menu").get_by_role("link", name="dpo-v0").click()
    page.wait_for_url("**revision=dpo-v0")
    other = page.locator("article.card").inner_text()
    assert other != main and "dpo-v0" in page.locator("details.menu summary").inner_text()
    moved = {line["variant"]: line["commit"] for line in released.outcome["variants"]}
    assert page.locator("a.commit").get_attribute("title") == moved["dpo-v0"]
    page.get_by_role("link", name="Files").click()
    files = page.locator("main").inner_text()
    assert "model.safetensors" in files and "LFS" in files and "adapter" in files


def test_a_person_gets_from_the_model_to_its_space_and_compares(released: Released, page: Any) -> None:
    page.goto(released.outcome["page"])
    page.locator("aside").get_by_role("link", name="hubkit/tiny-hermes-dpo-space").click()
    page.wait_for_url(released.outcome["space"])
    app = page.frame_locator("iframe.app")
    app.locator("#compare-send:enabled").wait_for()
    app.locator("#compare-prompt textarea").fill("What is the capital of France?")
    app.locator("#compare-send").click()
    marks = app.locator("#compare-left .mark, #compare-right .mark")
    marks.nth(1).wait_for()
    left, right = app.locator("#compare-left"), app.locator("#compare-right")
    assert "Paris" in left.inner_text()
    assert left.locator(".mark").inner_text().startswith("main · stopped by end-of-turn token · ")
    assert right.locator(".mark").inner_text().startswith("dpo-v0 · hit the token limit · 64 tokens · ")
    page.locator("iframe.app").scroll_into_view_if_needed()
    app.locator("#compare-send:enabled").wait_for()
    picture(page, "space")


def test_the_space_on_a_phone_in_dark_mode(released: Released, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.goto(released.outcome["space"])
    page.goto(page.locator("iframe.app").get_attribute("src"))
    page.wait_for_selector("#compare-send:enabled")
    page.locator(".example").first.click()
    page.wait_for_function("document.querySelectorAll('.mark').length == 2")
    picture(page, "space-phone")
    page.get_by_role("tab", name="Measured").click()
    page.locator("#measured table").first.wait_for()
    assert "Stop rate" in page.locator("#measured").inner_text()
    context.close()


def test_a_person_stops_an_answer(released: Released, page: Any) -> None:
    page.goto(released.outcome["space"])
    app = page.frame_locator("iframe.app")
    app.locator("#compare-send:enabled").wait_for()
    app.get_by_role("tab", name="Chat").click()
    app.locator("#chat-answers-revision input").click()
    app.get_by_role("option", name="dpo-v0").click()
    app.locator("#settings button").first.click()
    app.locator("#limit input[type=number]").fill("256")
    app.locator("#limit input[type=number]").press("Tab")
    app.locator("#chat-prompt textarea").fill("What is the capital of Spain?")
    app.locator("#chat-send").click()
    app.locator("#chat-answers .growing").wait_for()
    app.locator("#chat-stop").click()
    said = app.locator("#chat-answers .mark")
    said.wait_for()
    found = re.match(r"dpo-v0 · stopped by you · (\d+) tokens?", said.inner_text())
    assert found and int(found[1]) < 256


def test_nothing_of_the_space_reaches_the_hub_as_the_user(released: Released, page: Any) -> None:
    """A person who is logged in to the Hub's pages looks at the Space; its frame tries all that a page can try."""
    from hubkit.core.target import Target
    from hubkit.hub.client import connect

    token = (released.home / "hub" / "owner.token").read_text().strip()
    hub = connect(Target(released.url, released.home / "hf", token, embedded=True))
    page.goto(hub.page_session("/spaces/hubkit/tiny-hermes-dpo-space"))
    assert page.context.cookies(released.url), "logged in"
    page.frame_locator("iframe.app").locator("#compare-send").wait_for()
    frame = next(frame for frame in page.frames if "localhost" in frame.url)
    tried = frame.evaluate(
        """async ([hub, repo]) => {
            const out = {};
            const attempt = async (name, what) => {
                try { out[name] = await what(); } catch (error) { out[name] = "refused: " + error.name; }
            };
            const json = {"content-type": "application/json"};
            const ask = (path, options) => fetch(hub + path, {credentials: "include", ...options}).then(r => r.text());
            await attempt("whoami", () => ask("/api/whoami-v2", {}));
            await attempt("create", () => ask("/api/repos/create", {method: "POST", headers: json, body: "{}"}));
            await attempt("page", () => ask("/" + repo, {}));
            await attempt("parent", () => window.parent.document.title);
            await attempt("top", () => window.top.location.href);
            await attempt("cookie", () => document.cookie.includes("hubkit") ? "seen" : "refused: no cookie");
            await attempt("blind", () => fetch(hub + "/api/whoami-v2", {mode: "no-cors", credentials: "include"})
                .then(r => "refused: " + r.type));
            return out;
        }""",
        [released.url, REPO],
    )
    assert set(tried) == {"whoami", "create", "page", "parent", "top", "cookie", "blind"}
    assert all(str(said).startswith("refused") for said in tried.values()), tried
