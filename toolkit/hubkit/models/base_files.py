"""The small files of a base that say what it is, read from the Hub once for each commit; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.core.errors import RefusedError
from hubkit.core.target import Target
from hubkit.recipe.stage import BaseRepo

if TYPE_CHECKING:
    from hubkit.core.trees import Entry

_TOKENIZERS = frozenset({"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt"})
_TEMPLATES = frozenset({"chat_template.jinja", "chat_template.json"})


@dataclass(frozen=True)
class BaseFiles:
    """A base at ``commit``: the sizes of its files in bytes by path, and config.json and tokenizer_config.json.

    ``config`` is None when there is no config.json.
    """

    repo: str
    commit: str
    sizes: Mapping[str, int]
    config: bytes | None
    tokenizer_config: bytes | None

    @property
    def weights(self) -> int:
        """Bytes of the safetensors files in the repo's root; 0 when it has none."""
        return sum(size for name, size in self.sizes.items() if name.endswith(".safetensors") and "/" not in name)

    @property
    def has_tokenizer(self) -> bool:
        """Whether there are the files of a tokenizer."""
        return bool(_TOKENIZERS & self.sizes.keys()) or {"vocab.json", "merges.txt"} <= self.sizes.keys()

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template of its own."""
        if _TEMPLATES & self.sizes.keys():
            return True
        return bool(_object(self.tokenizer_config, "tokenizer_config.json").get("chat_template"))


def read_base(target: Target, base: BaseRepo) -> BaseFiles | None:
    """The files of ``base`` on ``target``'s Hub; None when a step of the release will create it there.

    HubkitError as from :meth:`hubkit.hub.client.Hub.resolve` and ``read_listed``: no such repo, gated, unreachable.
    """
    from hubkit.hub.client import connect

    hub = connect(target)
    if base.provided and target.embedded and not hub.repo_exists(base.repo):
        return None
    return _read(target, base.repo, hub.resolve(base.repo, base.revision))


@lru_cache(8)
def _read(target: Target, repo: str, commit: str) -> BaseFiles:
    from hubkit.hub.client import connect

    hub = connect(target)
    tree: Mapping[str, Entry] = hub.tree(repo, commit)
    config, tokenizer = (
        hub.read_listed(repo, name, commit) if name in tree else None
        for name in ("config.json", "tokenizer_config.json")
    )
    return BaseFiles(repo, commit, {name: entry.size for name, entry in tree.items()}, config, tokenizer)


def _object(body: bytes | None, name: str) -> dict[str, Any]:
    """The JSON object ``body``; empty for None. RefusedError when it is none."""
    if body is None:
        return {}
    try:
        found = load_json(body, SETTINGS)
    except JsonError as error:
        raise RefusedError(f"The base's {name} {error}.", hint="Use another base.") from error
    return found if isinstance(found, dict) else {}
