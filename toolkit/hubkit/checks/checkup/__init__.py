"""Check anybody's chat model: will it stop, does it load, is what it says about itself true.

    report = check(FolderSource(Path("model")))

Nothing is loaded into a model and no torch is needed: JSON, headers of safetensors files, and the chat template,
which is rendered in a child process with limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from hubkit.checks.checkup.reading import card_of, plain, settings_of, text_of
from hubkit.checks.checkup.sources import FolderSource, RepoSource, Source
from hubkit.checks.checkup.weights import Weights, fit, look
from hubkit.checks.screening import PICKLE_SUFFIXES, screen_names
from hubkit.core.findings import Finding
from hubkit.core.names import repo_id_problem
from hubkit.models import chat
from hubkit.models.chat import eos

__all__ = ["CheckReport", "FolderSource", "RepoSource", "Source", "check"]

_GRAVE = frozenset({"secret", "private-file", "pickle", "safetensors", "not-finite", "name"})
"""Rules of the screening whose breach is an error in anybody's repo; the others are warnings."""
_ADAPTER = "adapter_config.json"
_NUMBER = re.compile(r"[0-9]{1,9}")
_KINDS = (
    ("<|im_start|>", "ChatML"),
    ("<|start_header_id|>", "Llama 3"),
    ("<start_of_turn>", "Gemma"),
    ("[INST]", "Mistral or Llama 2"),
    ("<|user|>", "Zephyr or Phi"),
)
"""By what a template is known to people; it plays no part in any check."""


@dataclass(frozen=True)
class CheckReport:
    """``findings``, the worst first, and what the model is. None: it does not say, or it could not be found out."""

    name: str
    findings: tuple[Finding, ...]
    kind: str
    architecture: str | None
    dtype: str | None
    parameters: int | None
    end_of_turn: eos.EndOfTurn | None
    template: str | None
    base_model: str | None
    files: int
    bytes: int

    @property
    def sound(self) -> bool:
        """Whether there is no error among the findings."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        plain = asdict(self)
        plain["end_of_turn"] = (
            {"token": self.end_of_turn.token, "id": self.end_of_turn.id} if self.end_of_turn else None
        )
        plain["findings"] = [asdict(finding) for finding in self.findings]
        return {**plain, "sound": self.sound}


def check(source: Source, *, fits: bool = False) -> CheckReport:
    """Everything that can be found out about the model in ``source`` without loading it.

    ``fits``: where torch and transformers are installed, also hold the tensors' names and shapes against config.json,
    which takes some seconds.
    """
    files = source.files()
    found: list[Finding] = []
    config = settings_of(source, "config.json", found)
    adapters = sorted(name for name in files if name.rpartition("/")[2] == _ADAPTER and name.count("/") <= 1)
    found += _layout(files, adapters)
    weights = look(source, config, found)
    card = _card(source, found)
    named = card.get("base_model")
    for adapter in adapters:
        found += _adapter(source, adapter, settings_of(source, adapter, found), card)
    end, template = _chat(source, config, weights, found)
    found += _screened(source)
    if fits and config and not any(item.level == "error" for item in found):
        found += fit(source)
    order = {"error": 0, "warning": 1, "note": 2}
    return CheckReport(
        name=source.name,
        findings=tuple(sorted(dict.fromkeys(map(_printable, found)), key=lambda item: order[item.level])),
        kind=_kind(weights, adapters),
        architecture=plain(next((item for item in config.get("architectures", ()) if isinstance(item, str)), None)),
        dtype=weights.dtype if weights else None,
        parameters=weights.parameters if weights else None,
        end_of_turn=end,
        template=template,
        base_model=plain(named) if isinstance(named, str) else None,
        files=len(files),
        bytes=sum(files.values()),
    )


def _printable(finding: Finding) -> Finding:
    return replace(finding, message=plain(finding.message), hint=plain(finding.hint))


def _kind(weights: Weights | None, adapters: list[str]) -> str:
    if weights and adapters:
        return "model and adapter"
    return "model" if weights else "adapter" if adapters else "no safetensors weights"


def _layout(files: Mapping[str, int], adapters: list[str]) -> Iterator[Finding]:
    """Files at the wrong place, or of a kind that should not be there."""
    if _ADAPTER in adapters and "config.json" in files:
        yield Finding(
            "error",
            f"{_ADAPTER} stands beside config.json: loaders attach the adapter to the merged weights, a second time.",
            "Move the adapter's files to a folder adapter/, and load it with subfolder='adapter'.",
        )
    sound = any(name.endswith(".safetensors") and "/" not in name for name in files)
    if sound and "config.json" not in files and _ADAPTER not in adapters:
        yield Finding("error", "There are weights, but no config.json: no loader knows what they are.")
    pickles = sorted(name for name in files if any(name.lower().endswith(suffix) for suffix in PICKLE_SUFFIXES))
    if pickles:
        yield Finding(
            "warning" if sound else "error",
            f"{pickles[0]}{f' and {len(pickles) - 1} more' if len(pickles) > 1 else ''} can run code when loaded.",
            "Publish safetensors only, and leave out what the training left behind.",
        )


def _screened(source: Source) -> Iterator[Finding]:
    """What must not be published, with what :func:`look` and :func:`_layout` tell in other words left out."""
    for item in (*screen_names(source.files()), *source.screened()):
        by_name = PurePosixPath(item.path).suffix.lower() in PICKLE_SUFFIXES
        by_header = item.rule == "safetensors" and "/" not in item.path and not item.path.startswith("adapter_")
        by_card = item.rule == "front-matter" and item.path == "README.md"
        if not (by_header or by_card or (item.rule == "pickle" and by_name)):
            yield Finding("error" if item.rule in _GRAVE else "warning", item.sentence)


def _card(source: Source, found: list[Finding]) -> dict[str, Any]:
    """The front matter of README.md."""
    if "README.md" not in source.files():
        found.append(Finding("warning", "There is no model card (README.md)."))
        return {}
    card = card_of(source, found)
    if card is None:
        return {}
    bases = card.get("base_model")
    for base in bases if isinstance(bases, list) else [bases]:
        if base is None:
            found.append(Finding("warning", "The card names no base_model: the Hub cannot show what this was made of."))
        elif problem := repo_id_problem(base):
            found.append(Finding("error", f"The card's base_model {base!r} is no repo id: {problem}."))
    if not card.get("license"):
        found.append(Finding("warning", "The card names no licence."))
    return card


def _adapter(source: Source, path: str, settings: Mapping[str, Any], card: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the adapter's weights are there and its base can be found by others."""
    weights = path.replace(_ADAPTER, "adapter_model.safetensors")
    if weights not in source.files():
        yield Finding("error", f"{path} has no {weights} beside it.")
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not base:
        yield Finding("error", f"{path} names no base model.", "Set base_model_name_or_path to a repo id.")
        return
    if problem := repo_id_problem(base):
        yield Finding(
            "error",
            f"{path} names the base {base!r}, which nobody else has: {problem}.",
            "Set base_model_name_or_path to the repo id of the base, and revision to its commit.",
        )
        return
    if not revision:
        yield Finding("note", f"{path} pins no revision of {base}: when that moves, the adapter means something else.")
    named = card.get("base_model")
    if named and base not in (named if isinstance(named, list) else [named]):
        yield Finding("note", f"{path} names the base {base}, the card {named}.")
    there = source.other(base, revision)
    if there is not None and not there:
        yield Finding("error", f"The base {base} of {path} is not on this Hub at {revision or 'main'}.")
    elif there and "config.json" not in there and _ADAPTER in there:
        yield Finding(
            "error",
            f"The base {base} of {path} is an adapter itself: unless that is merged into its own base first, "
            "this adapter sits on weights that it was not trained on.",
            "Merge the chain into one adapter, or name the merged model as the base.",
        )


def _chat(
    source: Source, config: Mapping[str, Any], weights: Weights | None, found: list[Finding]
) -> tuple[eos.EndOfTurn | None, str | None]:
    """The turn end and the kind of template; what disagrees with them is added to ``found``."""
    tokenizer_config = settings_of(source, "tokenizer_config.json", found)
    tokenizer = settings_of(source, "tokenizer.json", found)
    if not tokenizer_config and not tokenizer:
        found.append(
            Finding("error" if weights else "note", "There is no tokenizer.", "Save the tokenizer beside the weights.")
        )
        return None, None
    template = _template(source, tokenizer_config, found)
    if template is None:
        found.append(
            Finding(
                "error" if weights else "note",
                "There is no chat template: nothing says how a conversation is written, or where an answer ends.",
                "Save one as chat_template.jinja.",
            )
        )
        return None, None
    added = _added_tokens(tokenizer, tokenizer_config)
    special = chat.special_tokens({**settings_of(source, "special_tokens_map.json", found), **tokenizer_config})
    kind = next((name for mark, name in _KINDS if mark in template), "other")
    tokens = chat.Tokens(special, added, max([*added.values(), *_vocabulary(tokenizer)], default=-1) + 1)
    agreement = chat.agree(template, tokens, config, settings_of(source, "generation_config.json", found))
    found += agreement.findings
    return agreement.end_of_turn, kind


def _template(source: Source, tokenizer_config: Mapping[str, Any], found: list[Finding]) -> str | None:
    """The template that transformers would use: chat_template.jinja first, then tokenizer_config.json."""
    inline = tokenizer_config.get("chat_template")
    if isinstance(inline, list):
        named = [item.get("template") for item in inline if isinstance(item, dict) and item.get("name") == "default"]
        inline = named[-1] if named else None
    own = text_of(source, "chat_template.jinja", found)
    if own is not None and isinstance(inline, str) and own.strip() != inline.strip():
        found.append(
            Finding(
                "warning",
                "chat_template.jinja and the chat_template in tokenizer_config.json differ: "
                "which one counts depends on the program's version.",
                "Make them equal, or remove the one in tokenizer_config.json.",
            )
        )
    return own if own is not None else inline if isinstance(inline, str) else None


def _added_tokens(tokenizer: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> dict[str, int]:
    """The added tokens' ids, as both files give them; tokenizer.json has the last word."""
    found = {}
    for number, item in tokenizer_config.get("added_tokens_decoder", {}).items():
        if _NUMBER.fullmatch(number) and isinstance(item, dict) and isinstance(item.get("content"), str):
            found[plain(item["content"])] = int(number)
    for item in tokenizer.get("added_tokens", ()):
        if isinstance(item, dict) and isinstance(item.get("content"), str) and _is_id(item.get("id")):
            found[plain(item["content"])] = item["id"]
    return found


def _vocabulary(tokenizer: Mapping[str, Any]) -> list[int]:
    """The ids of a tokenizer.json's vocabulary."""
    vocabulary = tokenizer.get("model", {}).get("vocab")
    if isinstance(vocabulary, dict):
        return [item for item in vocabulary.values() if _is_id(item)]
    return list(range(len(vocabulary))) if isinstance(vocabulary, list) else []


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31
