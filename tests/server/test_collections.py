"""Collections, by the client's own methods: what they hold, who sees them, and what becomes of them."""

from collections.abc import Callable

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from releases import admin

from hubkit.server.process import Running


@pytest.fixture
def api(hub: Running) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


def status(call: Callable[[], object]) -> int:
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    return caught.value.response.status_code


def test_a_collection_lists_repos_papers_and_collections_with_notes(api: HfApi) -> None:
    api.create_repo("hubkit/model")
    api.create_repo("hubkit/facts", repo_type="dataset")
    nested = api.create_collection("Nested", namespace="hubkit")
    made = api.create_collection("Tiny Hermes: all of it", namespace="hubkit", description="A model and its data")
    assert made.slug.startswith("hubkit/tiny-hermes-all-of-it-") and made.items == [] and not made.private
    api.add_collection_item(made.slug, "hubkit/Model", "model", note="start here")
    api.add_collection_item(made.slug, "hubkit/facts", "dataset")
    api.add_collection_item(made.slug, "2305.18290", "paper")
    api.add_collection_item(made.slug, nested.slug, "collection")
    assert status(lambda: api.add_collection_item(made.slug, "hubkit/model", "model")) == 409
    api.add_collection_item(made.slug, "hubkit/model", "model", exists_ok=True)
    for name, kind in (("hubkit/absent", "model"), ("hubkit/model", "dataset"), ("x", "paper"), ("hubkit/x", "space")):
        assert status(lambda name=name, kind=kind: api.add_collection_item(made.slug, name, kind)) == 404  # type: ignore[misc]
    found = api.get_collection(made.slug)
    assert [(item.item_id, item.item_type, item.note) for item in found.items] == [
        ("hubkit/model", "model", "start here"),
        ("hubkit/facts", "dataset", None),
        ("2305.18290", "paper", None),
        (nested.slug, "collection", None),
    ]
    api.update_collection_item(made.slug, found.items[0].item_object_id, note="the model", position=2)
    api.delete_collection_item(made.slug, found.items[1].item_object_id)
    api.delete_collection_item(made.slug, found.items[1].item_object_id, missing_ok=True)
    found = api.get_collection(made.slug)
    assert [(item.item_id, item.position, item.note) for item in found.items] == [
        ("2305.18290", 0, None),
        ("hubkit/model", 1, "the model"),
        (nested.slug, 2, None),
    ]
    assert [item.slug for item in api.list_collections(owner="hubkit")] == [nested.slug, made.slug]
    assert [item.slug for item in api.list_collections(item="models/hubkit/model")] == [made.slug]
    assert [item.slug for item in api.list_collections(item="papers/2305.18290")] == [made.slug]


def test_its_slug_follows_the_title_and_its_repos_their_names(api: HfApi) -> None:
    api.create_repo("hubkit/model")
    api.create_repo("hubkit/other")
    made = api.create_collection("First", namespace="hubkit")
    assert status(lambda: api.create_collection("First", namespace="hubkit")) == 409
    assert api.create_collection("First", namespace="hubkit", exists_ok=True).slug == made.slug
    for name in ("model", "other"):
        api.add_collection_item(made.slug, f"hubkit/{name}", "model")
    changed = api.update_collection_metadata(made.slug, title="Second", description="new", theme="pink", private=True)
    assert (changed.title, changed.description, changed.theme, changed.private) == ("Second", "new", "pink", True)
    assert changed.slug == made.slug.replace("first", "second")
    assert api.get_collection(made.slug).slug == changed.slug, "the old slug works"
    api.move_repo("hubkit/model", "hubkit/moved")
    api.delete_repo("hubkit/other")
    assert [item.item_id for item in api.get_collection(made.slug).items] == ["hubkit/moved"]
    api.delete_collection(made.slug)
    assert status(lambda: api.delete_collection(made.slug)) == 404
    api.delete_collection(made.slug, missing_ok=True)


def test_what_the_hub_refuses_is_refused(hub: Running, api: HfApi) -> None:
    import httpx2

    bodies: list[dict[str, object]] = [
        {"title": ""}, {"title": "x" * 60}, {"title": 5}, {"title": "x", "description": "x" * 151}, {},
        {"title": "x", "private": "yes"}, {"title": "x", "namespace": "no/name"},
    ]  # fmt: skip
    for body in bodies:
        answer = httpx2.post(f"{hub.url}/api/collections", json=body, headers={"authorization": f"Bearer {hub.token}"})
        assert answer.status_code == 400, body
    assert not list(api.list_collections())


READ, COLLECT = "collection.read", "collection.write"


def test_who_may_see_and_change_one(hub: Running, api: HfApi) -> None:
    admin(hub, "POST", "users", {"name": "stranger"})
    token = str(admin(hub, "POST", "tokens", {"user": "stranger"})["token"])
    stranger, nobody = HfApi(endpoint=hub.url, token=token), HfApi(endpoint=hub.url, token=False)
    api.create_repo("hubkit/secret", private=True)
    api.create_repo("hubkit/open")
    made = api.create_collection("Mine", namespace="hubkit")
    for name in ("secret", "open"):
        api.add_collection_item(made.slug, f"hubkit/{name}", "model")
    item = api.get_collection(made.slug).items[0].item_object_id
    for other in (stranger, nobody):
        assert [found.item_id for found in other.get_collection(made.slug).items] == ["hubkit/open"]
        assert not list(other.list_collections(item="models/hubkit/secret")), "nor that it is in one"
        refused = 403 if other is stranger else 401
        for call in (
            lambda other=other: other.update_collection_metadata(made.slug, title="Yours"),
            lambda other=other: other.add_collection_item(made.slug, "hubkit/open", "model"),
            lambda other=other: other.update_collection_item(made.slug, item, note="x"),
            lambda other=other: other.delete_collection_item(made.slug, item),
            lambda other=other: other.delete_collection(made.slug),
            lambda other=other: other.create_collection("New", namespace="hubkit"),
        ):
            assert status(call) == refused
    theirs = stranger.create_collection("Theirs", namespace="stranger")
    assert status(lambda: stranger.add_collection_item(theirs.slug, "hubkit/secret", "model")) == 404
    api.update_collection_metadata(made.slug, private=True)
    assert status(lambda: stranger.get_collection(made.slug)) == 404
    assert status(lambda: nobody.get_collection(made.slug)) == 401
    assert [one.slug for one in stranger.list_collections()] == [theirs.slug]
    assert [one.title for one in api.list_collections(owner="hubkit")] == ["Mine"]


def test_a_fine_grained_token_needs_the_right(hub: Running, api: HfApi) -> None:
    made = api.create_collection("Mine", namespace="hubkit", private=True)

    def of(*rights: str) -> HfApi:
        scoped = [{"entity": {"type": "user", "name": "hubkit"}, "permissions": list(rights)}]
        grants = {"global": [], "scoped": scoped}
        token = admin(hub, "POST", "tokens", {"user": "hubkit", "fineGrained": grants})["token"]
        return HfApi(endpoint=hub.url, token=str(token))

    assert status(lambda: of("repo.write").get_collection(made.slug)) == 404
    assert status(lambda: of(READ).update_collection_metadata(made.slug, title="New")) == 403
    assert of(READ).get_collection(made.slug).title == "Mine"
    assert of(COLLECT).update_collection_metadata(made.slug, title="New").title == "New"


def test_pages_show_collections_papers_a_newer_version_and_the_gate(hub: Running, api: HfApi) -> None:
    import httpx2

    api.create_repo("hubkit/model-2")
    api.create_repo("hubkit/model")
    card = (
        "---\nnew_version: hubkit/model-2\nbase_model: them/base\nbase_model_relation: adapter\n"
        "extra_gated_heading: Ask <b>us</b>\nextra_gated_prompt: Be kind.\n"
        "extra_gated_fields:\n  Company: text\n  Use:\n    type: select\n    options: [a, b]\n---\n"
        "# Model\n\nSee [DPO](https://arxiv.org/abs/2305.18290v2) and <https://huggingface.co/papers/2310.01377>.\n"
    )
    api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="hubkit/model")
    api.update_repo_settings("hubkit/model", gated="manual")
    info = api.model_info("hubkit/model")
    assert {"arxiv:2305.18290", "arxiv:2310.01377", "base_model:adapter:them/base"} <= set(info.tags or ())
    made = api.create_collection("Ours & theirs", namespace="hubkit", description="All <i>of</i> it")
    api.add_collection_item(made.slug, "hubkit/model", "model", note="the <first>")
    page = httpx2.get(f"{hub.url}/hubkit/model").text
    assert 'A newer version of this model is available: <a href="/hubkit/model-2">' in page
    assert "Ask &lt;b&gt;us&lt;/b&gt;" in page and "Be kind." in page and "Company" in page and "select" in page
    assert f'<a href="/collections/{made.slug}"><bdi>Ours &amp; theirs</bdi></a>' in page
    shown = httpx2.get(f"{hub.url}/collections/{made.slug}").text
    assert "All &lt;i&gt;of&lt;/i&gt; it" in shown and "the &lt;first&gt;" in shown and 'href="/hubkit/model"' in shown
    assert f'href="/collections/{made.slug}"' in httpx2.get(f"{hub.url}/hubkit").text
    assert httpx2.get(f"{hub.url}/collections/hubkit/x-{'0' * 24}").status_code == 404
