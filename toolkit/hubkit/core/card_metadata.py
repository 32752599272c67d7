"""What the Hub takes in the front matter of a model's card, for lint, for our own cards and for the embedded Hub.

A rule refuses (level ``error``) only where the refusal is on record; what is likely, or refused by no program, is a
``warning`` or a ``note``. The records:

- license: hub-docs, "Licenses"; ``"license" must be one of [...]`` (huggingface_hub's tests).
- language: huggingface_hub's ``ModelCardData`` and issue 3862; the Hub answers ``"language[0]" must only contain
  lowercase characters``, and that it must be an ISO 639 code or a special value.
- base_model: ``"base_model" with value "..." is not valid. Use a model id from https://hf.co/models.``;
  ``"base_model" is not allowed to be empty`` (transformers, pull request 25961).
- datasets: ``"datasets[0]" with value "..." is not valid.`` (autotrain-advanced, issue 648; transformers, issue 13528).
- model-index: ``"model-index[0].results[0].dataset.config" must be a string`` (MDEL, issue 34). What hub-docs calls
  required (modelcard.md) and the Hub took without all the same: huggingface_hub's ``ModelCard.load`` raises ValueError.
- widget: ``"widget" must be an array`` (ai-toolkit, issue 260).

The Hub reads YAML 1.2, in which ``no`` is a word; Python's readers take it for false. So false counts as the word here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from hubkit.core.licenses import license_identifiers, license_problem
from hubkit.core.model_index import index_problems
from hubkit.core.names import named_repo_problem
from hubkit.core.numbers import counted
from hubkit.core.pipeline_tags import PIPELINE_TAGS

RELATIONS = ("adapter", "finetune", "merge", "quantized")
"""What ``base_model_relation`` can be (hub-docs, "Model Cards", "Specifying a base model")."""
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
_WITH_REGION = re.compile(r"([a-z]{2,3})[-_][A-Za-z0-9_-]+", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)?")
"""The form of an id. Names that the Hub gave out before its rules were narrower have it too."""
_PATH = re.compile(r"[/.~\\]|[A-Za-z]:[/\\]|\w+://|[^/]*/[^/]*/")
"""How paths and addresses begin. The Hub refuses those for datasets; what else it takes is on no record, and it holds
cards with names such as 'VoxPopuli-(EN)'."""
_SHOWN = 120


class MetadataProblem(NamedTuple):
    """What is wrong with a key: a sentence, what to do next, and how the Hub words its refusal (empty: it has none).

    ``refused_by`` names the program that refuses an error.
    """

    key: str
    level: Literal["error", "warning", "note"]
    message: str
    hint: str = "Fix the value, or leave the key out."
    hub: str = ""
    refused_by: str = "The Hub"


def metadata_problems(data: Mapping[str, Any]) -> Iterator[MetadataProblem]:
    """What is wrong with the front matter ``data`` of a model's card, key by key."""
    yield from _license(data.get("license"))
    yield from _languages(data.get("language"))
    for key, kind in (("base_model", "model"), ("datasets", "dataset"), ("new_version", "model")):
        yield from _ids(key, kind, data.get(key))
    yield from _tags(data.get("tags"))
    yield from _pipeline(data.get("pipeline_tag"))
    relation = data.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        message = f"'base_model_relation' is {_shown(relation)}."
        yield MetadataProblem("base_model_relation", "warning", message, f"It is one of {', '.join(RELATIONS)}.")
    if data.get("widget") is not None and not isinstance(data["widget"], list):
        hint = "Write a list of examples, each with a '-'."
        yield MetadataProblem("widget", "error", "'widget' is not a list.", hint, '"widget" must be an array')
    for key in ("library_name", "license_name", "license_link"):
        if data.get(key) is not None and not isinstance(data[key], str):
            hub = f'"{key}" must be a string'
            yield MetadataProblem(key, "warning", f"'{key}' is {_shown(data[key])}, not a string.", "Quote it.", hub)
    yield from _index(data.get("model-index"))


def language_problem(code: object) -> str | None:
    """Why the Hub does not take ``code`` for a language, in a sentence; None when it does."""
    refused = [item for item in _language(code, "language") if item.level == "error"]
    return f"{refused[0].message} {refused[0].hint}" if refused else None


def as_list(value: Any) -> list[Any]:
    """``value`` as the Hub reads a key that can have one value or several."""
    return [] if value is None else value if isinstance(value, list) else [value]


def is_true(value: object) -> bool | None:
    """``value`` as the Hub reads a switch: true, false, and the same words in quotes; None for anything else."""
    words = {"true": True, "false": False}
    return value if isinstance(value, bool) else words.get(value.lower()) if isinstance(value, str) else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _place(key: str, value: Any, at: int) -> str:
    """How the Hub names the item ``at`` of a key: by its number only in a list."""
    return f"{key}[{at}]" if isinstance(value, list) else key


def _license(value: Any) -> Iterator[MetadataProblem]:
    for identifier in as_list(value):
        if identifier in (None, "", []):
            continue
        if problem := license_problem(identifier):
            hub = f'"license" must be one of [{", ".join(license_identifiers())}]'
            yield MetadataProblem("license", "error", f"{problem[0].upper()}{problem[1:]}.", hub=hub)


def _languages(value: Any) -> Iterator[MetadataProblem]:
    for at, code in enumerate(as_list(value)):
        yield from _language(code, _place("language", value, at))


def _language(code: object, place: str) -> Iterator[MetadataProblem]:
    if code is False:
        hint = "Write it in quotes: 'no'."
        message = "The language no is not in quotes: Python's YAML readers take it for false."
        yield MetadataProblem("language", "note", message, hint)
        return
    if isinstance(code, str) and _LANGUAGE.fullmatch(code):
        return
    if not isinstance(code, str):
        hub = f'"{place}" must be a string'
        yield MetadataProblem("language", "error", f"The language {_shown(code)} is not a string.", hub=hub)
        return
    message, hint = (
        f"The language {_shown(code)} is no ISO 639 code such as 'en'.",
        "Write the code of the language, or leave it out.",
    )
    hub = (
        f'"{place}" with value "{code}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code (two/three letters),'
        ' or a special value like "code", "multilingual". If you want to use BCP-47 identifiers, you can specify them'
        " in language_bcp47."
    )
    if code != code.lower():
        hub = f'"{place}" must only contain lowercase characters'
    if region := _WITH_REGION.fullmatch(code):
        hint = f"Write {region[1].lower()!r}, and {code!r} under 'language_bcp47'."
    elif _LANGUAGE.fullmatch(code.lower()):
        hint = f"Write {code.lower()!r}."
    yield MetadataProblem("language", "error", message, hint, hub)


def _ids(key: str, kind: str, value: Any) -> Iterator[MetadataProblem]:
    advice = f"Use a {kind} id from https://hf.co/{kind}s."
    for at, item in enumerate(as_list(value)):
        place = _place(key, value, at)
        if not isinstance(item, str):
            if not (item is None and key == "base_model"):
                hub = f'"{place}" must be a string'
                yield MetadataProblem(key, "error", f"'{key}' names {_shown(item)}, which is not a repo id.", hub=hub)
        elif not item:
            hub = f'"{place}" is not allowed to be empty'
            yield MetadataProblem(key, "error", f"'{key}' names an empty string.", hub=hub)
        elif kind == "dataset" and not _ID.fullmatch(item) and not _PATH.match(item):
            message = f"'{key}' names {_shown(item)}, which no page of the Hub has for a name."
            yield MetadataProblem(key, "warning", message, advice)
        elif not _ID.fullmatch(item) or item.startswith("."):
            use = f"If possible, u{advice[1:]}" if kind == "dataset" else advice
            hub = f'"{place}" with value "{item}" is not valid. {use}'
            message = f"'{key}' names {_shown(item)}, which is not a repo id of the form namespace/name."
            yield MetadataProblem(key, "error", message, advice, hub)
        elif problem := named_repo_problem(item):
            message = f"'{key}' names {_shown(item)}, which huggingface_hub takes for no repo id: {problem}."
            yield MetadataProblem(key, "warning", message, advice)


def _index(value: Any) -> Iterator[MetadataProblem]:
    """The problems of ``model-index``; what many results lack is told once."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for message, hub in index_problems(value):
        alike.setdefault(re.sub(r"\[\d+\]", "[]", message), []).append((message, hub))
    for (message, hub), *others in alike.values():
        more = f" {counted(len(others), 'other result')} too." if others else ""
        by = "The Hub" if hub else "huggingface_hub"
        yield MetadataProblem("model-index", "error", f"{message}{more}", hub=hub, refused_by=by)


def _tags(value: Any) -> Iterator[MetadataProblem]:
    if value is not None and not isinstance(value, str | list):
        yield MetadataProblem("tags", "error", "'tags' is not a list.", hub='"tags" must be an array')
        return
    for at, tag in enumerate(as_list(value)):
        if isinstance(tag, bool):
            message = (
                f"The tag {str(tag).lower()} is not in quotes: Python's YAML readers take words such as no for it."
            )
            yield MetadataProblem("tags", "note", message, "Write it in quotes.")
        elif not isinstance(tag, str) and tag is not None:
            hub = f'"tags[{at}]" must be a string'
            message = f"The tag {_shown(tag)} is not a string."
            yield MetadataProblem("tags", "warning", message, "Write it in quotes.", hub)


def _pipeline(value: Any) -> Iterator[MetadataProblem]:
    if value is None or (isinstance(value, str) and value in PIPELINE_TAGS):
        return
    hub = "" if isinstance(value, str) else '"pipeline_tag" must be a string'
    message = f"The pipeline_tag {_shown(value)} is none of the Hub's tasks, so that no page lists the model by it."
    yield MetadataProblem("pipeline_tag", "warning", message, "Choose one of https://huggingface.co/tasks.", hub)
