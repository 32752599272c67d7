"""What a recipe says about the release's pages on the Hub: the card, papers, DOI, gated access, Space, collection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from hubkit.recipe.values import Contact, Model, Name, RepoId, ShortDescription, Url

_ARXIV = re.compile(r"\d{4}\.\d{4,5}(v\d+)?|[a-z-]+(\.[A-Z]{2})?/\d{7}(v\d+)?")
_PAPER_PLACES = re.compile(
    r"(?:arxiv:|https?://(?:www\.)?arxiv\.org/(?:abs|pdf|html)/|https?://(?:huggingface\.co|hf\.co)/papers/)(.+?)(?:\.pdf)?",
    re.IGNORECASE,
)
_DOI = re.compile(r"10\.\d{4,9}/[^\s<>\"]+")
_DOI_PLACE = re.compile(r"(?:doi:|https?://(?:dx\.)?doi\.org/)", re.IGNORECASE)
FIELD_TYPES = ("text", "checkbox", "date_picker", "country", "ip_location")
"""Types of the fields of a gated repo's form that need nothing else; a ``select`` needs ``options``."""


def _paper(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError(f"YAML reads this as the number {value}, without zeros at its end; put the arXiv id in quotes")
    if not isinstance(value, str):
        return value
    found = _PAPER_PLACES.fullmatch(value.strip())
    name = found[1] if found else value.strip()
    if not _ARXIV.fullmatch(name):
        raise ValueError(f"{value!r} is no arXiv id: write one such as 2305.18290, or its address on arXiv or the Hub")
    return name


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _doi(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = _DOI_PLACE.sub("", value.strip(), count=1)
    if not _DOI.fullmatch(name):
        raise ValueError(f"{value!r} is no DOI: write one such as 10.57967/hf/1234")
    return name


def _gated_field(value: Any) -> Any:
    """A field as the Hub documents it: a type, or a mapping with a ``type``."""
    if isinstance(value, str) and value in FIELD_TYPES:
        return value
    if isinstance(value, Mapping):
        if value.get("type") in FIELD_TYPES and value.keys() == {"type"}:
            return dict(value)
        options: Any = value.get("options")
        if value.get("type") == "select" and value.keys() == {"type", "options"} and _are_options(options):
            return {
                "type": "select",
                "options": [dict(item) if isinstance(item, Mapping) else item for item in options],
            }
    raise ValueError(
        f"{value!r} is no field of the form: write {', '.join(FIELD_TYPES)}, or {{type: select, options: [...]}}"
    )


def _are_options(options: Any) -> bool:
    """Whether these are options of a select: texts, or mappings with a label and a value."""
    return (
        isinstance(options, list | tuple)
        and bool(options)
        and all(
            isinstance(item, str)
            or (
                isinstance(item, Mapping)
                and item.keys() == {"label", "value"}
                and all(isinstance(text, str) for text in item.values())
            )
            for item in options
        )
    )


PaperId = Annotated[str, BeforeValidator(_paper)]
"""A paper by its arXiv id, however it was written."""
Doi = Annotated[str, BeforeValidator(_doi)]
"""A DOI without its address."""
GatedField = Annotated[Any, AfterValidator(_gated_field)]
"""The type of a field of a gated repo's form."""


class CardOnTheHub(Model):
    """Keys of the card that the Hub shows in places of its own: above the card, beside it, or before its files."""

    LATER = frozenset({"replaces"})
    papers: Annotated[tuple[PaperId, ...], AfterValidator(_each_once)] = Field(
        (), strict=False, description="papers about the model: arXiv ids, or their addresses on arXiv or the Hub"
    )
    doi: Doi | None = Field(
        None, description="DOI of the model, such as 10.57967/hf/1234; the Hub's settings issue one"
    )
    new_version: RepoId | None = Field(None, description="the model repo that replaces this one; its page then says so")
    replaces: Annotated[tuple[RepoId, ...], AfterValidator(_each_once)] = Field(
        (),
        strict=False,
        description="older model repos that this release replaces: `new_version` is written to the card on their main "
        "branch, as the last step",
    )
    base_model_relation: Literal["adapter", "finetune", "merge", "quantized"] | None = Field(
        None, description="how the model was made from its base; finetune when absent (the adapter's own card: adapter)"
    )
    extra_gated_heading: str | None = Field(None, description="with `gated`: heading of the form that asks for access")
    extra_gated_prompt: str | None = Field(None, description="with `gated`: what people agree to, in Markdown")
    extra_gated_description: str | None = Field(None, description="with `gated`: text below the form's heading")
    extra_gated_button_content: str | None = Field(None, description="with `gated`: text of the form's button")
    extra_gated_fields: Mapping[str, GatedField] = Field(
        default_factory=dict,
        description="with `gated`: what people are asked, by label: text, checkbox, date_picker, country, ip_location, "
        "or {type: select, options: [...]}",
    )
    extra_gated_eu_disallowed: bool | None = Field(None, description="with `gated`: true refuses access from the EU")

    def gated_keys(self) -> dict[str, Any]:
        """The keys about the form of a gated repo that are set, as the card's metadata has them."""
        plain = self.model_dump(mode="json")
        return {
            key: value for key, value in plain.items() if key.startswith("extra_gated_") and value not in (None, {})
        }


class Card(CardOnTheHub):
    """What only a person can write on the card; every number comes from a measurement."""

    title: str = Field(description="heading of the card")
    summary: str | None = Field(
        None,
        description="what the model is, in one or two sentences; when absent, the card says what was trained on what",
    )
    language: tuple[str, ...] = Field(("en",), strict=False, description="languages, as ISO 639 codes")
    tags: tuple[str, ...] = Field((), strict=False, description="tags on the Hub")
    authors: tuple[str, ...] = Field((), strict=False, description="names of the authors")
    contact: Contact | None = Field(None, description="where readers reach the authors: an e-mail address or a URL")
    source: Url | None = Field(None, description="URL of this recipe, such as its git repo")
    year: int | None = Field(None, ge=1950, le=9999, description="year of the release, for the citation")
    tracking: str | None = Field(
        None,
        description="URL of the training report; when absent, the page of the tracker that `report_to` names; "
        "none: no link",
    )
    intended_use: str | None = Field(None, description="what the model is for, and for whom")
    limitations: str | None = Field(None, description="what the model is not good for")
    template: str | None = Field(
        None, description="a Jinja file, or a folder of them, beside the recipe: {% extends 'hubkit/model.md.jinja' %}"
    )


class Space(Model):
    """The Gradio Space in which people try the variants. It has the visibility of the model repo."""

    repo: RepoId = Field(description="Space repo on the target Hub")
    title: str | None = Field(None, description="title of the Space; the card's when absent")
    description: ShortDescription | None = Field(
        None, description="what the Space is, for its tile on the Hub: one line of at most 60 characters"
    )
    prompts: tuple[str, ...] = Field(
        (), strict=False, description="example prompts; the first is asked when the Space is deployed"
    )
    hardware: str | None = Field(
        None, description="the Hub's name of the hardware, such as t4-small; its free CPU when absent"
    )


class Collection(Model):
    """The collection on the Hub that lists the repos of the release. It has the visibility of the model repo."""

    title: str = Field(
        min_length=1, max_length=59, description="its title; a collection with this title is used if there is one"
    )
    description: str | None = Field(None, max_length=150, description="what it is about, in plain text")
    namespace: Name | None = Field(None, description="whose it is: a user or organization; that of `repo` when absent")
    notes: Mapping[str, Annotated[str, Field(max_length=500)]] = Field(
        default_factory=dict,
        description="a note on an item, by variant, `gguf`, `space` or arXiv id; of a variant its title when absent",
    )
