"""Collections: found by their title, created, and filled with items that each are there once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hubkit.core.errors import RemoteError
from hubkit.core.fine_grained import COLLECT
from hubkit.hub.auth import AuthCalls
from hubkit.hub.errors import contradiction

if TYPE_CHECKING:
    import huggingface_hub

ItemType = Literal["model", "space", "paper"]
_MOST = 200
"""Collections of one namespace that are looked through for a title."""


@dataclass(frozen=True)
class Item:
    """An item of a collection: a repo by its id, or a paper by its arXiv id. ``object_id`` is the Hub's id of it."""

    name: str
    type: str
    note: str | None = None
    object_id: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """By which it is the same item: the Hub ignores the case of letters."""
        return self.type, self.name.lower()


@dataclass(frozen=True)
class Collection:
    """A collection as the Hub shows it."""

    slug: str
    title: str
    description: str | None
    private: bool
    items: tuple[Item, ...]

    @classmethod
    def of(cls, found: huggingface_hub.Collection) -> Collection:
        """A collection of huggingface_hub."""
        items = (Item(item.item_id, item.item_type, item.note, item.item_object_id) for item in found.items)
        return cls(found.slug, found.title, found.description or None, found.private, tuple(items))

    def find(self, item: Item) -> Item | None:
        """The item that is the same as ``item``; None when it has none."""
        return next((mine for mine in self.items if mine.key == item.key), None)


class CollectionCalls(AuthCalls):
    """The requests about collections, as methods of a connection."""

    def collecting_problem(self, namespace: str) -> str | None:
        """Why this token cannot change collections of ``namespace``, without a full stop; None when it can."""
        account = self.whoami() if not self.target.trusted else None
        if account is None:
            return f"collections need a user token; none is set for {self.endpoint}"
        if missing := account.lacks(COLLECT, f"{namespace}/", "model", new=True):
            return missing.replace(f"new repos of {namespace}", namespace)
        if not self.target.embedded and namespace not in {account.name, *account.organizations}:
            return f"{account.name} is not a member of {namespace}"
        return None

    def collection(self, slug: str) -> Collection | None:
        """The collection ``slug`` with all of its items; None when there is none that this token can see."""
        from huggingface_hub.errors import HfHubHTTPError

        def read() -> Collection | None:
            try:
                return Collection.of(self.api.get_collection(slug))
            except HfHubHTTPError as error:
                if error.response.status_code == 404:
                    return None
                raise

        return self.query(read)

    def collection_titled(self, namespace: str, title: str) -> Collection | None:
        """The collection of ``namespace`` with this title; None when it has none."""

        def read() -> str | None:
            listed = self.api.list_collections(owner=namespace, limit=_MOST)
            return next((found.slug for found in listed if found.title == title), None)

        slug = self.query(read)
        return self.collection(slug) if slug else None

    def create_collection(self, namespace: str, title: str, description: str | None, *, private: bool) -> Collection:
        """A new collection. When the response is lost, the one that has the title now is it."""
        lost: RemoteError | None = None
        try:
            made = self.send(
                lambda: self.api.create_collection(
                    title, namespace=namespace, description=description, private=private, exists_ok=True
                )
            )
            found = self.collection(made.slug)
        except RemoteError as error:
            lost, found = error, self.collection_titled(namespace, title)
        if found is None:
            raise lost or contradiction(
                self.endpoint, f"it accepted the new collection {title!r} of {namespace}, and there is none"
            )
        return found

    def change_collection(self, slug: str, *, description: str | None = None, private: bool | None = None) -> None:
        """Change what a collection is about, or who can see it."""
        self.send(lambda: self.api.update_collection_metadata(slug, description=description, private=private))

    def add_to_collection(self, slug: str, item: Item) -> None:
        """Add ``item`` at the end; nothing happens when it is there already."""
        kind: ItemType = item.type  # type: ignore[assignment]
        self.send(lambda: self.api.add_collection_item(slug, item.name, kind, note=item.note, exists_ok=True))

    def change_note(self, slug: str, item: Item, note: str) -> None:
        """Change the note of an item."""
        self.send(lambda: self.api.update_collection_item(slug, item.object_id, note=note))
