"""The values that the keys of a recipe take, each checked where it is read: ids, names, branches, licenses, sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from hubkit.core.licenses import license_problem
from hubkit.core.names import ref_problem, repo_id_problem
from hubkit.core.space_metadata import DESCRIPTION_MOST
from hubkit.recipe.names import STAGING

OLD_ACCEPT: Mapping[str, str] = {"truncated-turn-ends": "truncated-end-of-turn"}
"""Values of ``accept`` that recipes were written with before, and still may be: (old, current)."""


WEB_ADDRESS = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]{1,2000}")
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
EMAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})+")
"""An e-mail address as CommonMark links it."""


def _repo_id(value: str) -> str:
    if problem := repo_id_problem(value):
        raise ValueError(f"{value!r} is not a repo id: {problem}")
    return value


def _branch(value: str) -> str:
    if problem := ref_problem(value):
        raise ValueError(f"{value!r} cannot be a branch: {problem}")
    if value == STAGING or value.startswith(f"{STAGING}/"):
        raise ValueError(f"{value!r} cannot be a variant's branch: '{STAGING}/' is where releases are prepared")
    return value


def _hub(value: str) -> str:
    if value in {"embedded", "huggingface"} or re.fullmatch(r"https?://[^\s/@]+(/\S*)?", value):
        return value.rstrip("/")
    raise ValueError(f"{value!r} is no Hub: write 'embedded', 'huggingface' or a URL")


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError(f"{value!r} cannot be a name here: letters, digits, '-' and '_' only")
    return value


def _license(value: str) -> str:
    if problem := license_problem(value):
        raise ValueError(problem)
    return value


def _url(value: str) -> str:
    if not WEB_ADDRESS.fullmatch(value):
        raise ValueError(f"{value!r} is no address: write one such as https://example.org/me")
    return value


def _short_description(value: str) -> str:
    if not value.isprintable():
        raise ValueError("write one line of printable characters")
    if len(value) > DESCRIPTION_MOST:
        raise ValueError(f"it has {len(value)} characters; the Hub takes at most {DESCRIPTION_MOST}")
    return value


def _contact(value: str) -> str:
    if not EMAIL.fullmatch(value) and not WEB_ADDRESS.fullmatch(value):
        raise ValueError(f"{value!r} is neither an e-mail address nor one such as https://example.org/me")
    return value


def _files(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not listed or not all(name.strip() for name in listed):
        raise ValueError("name at least one file, such as data.jsonl")
    return value


_SLICE = re.compile(r"[\w.-]+(\[[^\[\]]*\])?(\([a-z_0-9]+\))?")
_BOUNDS = re.compile(r"\[(-?\d+%?)?:(-?\d+%?)?\]")


def _split(value: str) -> str:
    for part in value.split("+"):
        found = _SLICE.fullmatch(part.strip())
        if not found or (found[1] and (found[1] == "[:]" or not _BOUNDS.fullmatch(found[1]))):
            raise ValueError(f"{value!r} is no split: write train, train[:500], train[10%:20%] or train+test")
    return value


def without_folders(pattern: str) -> str:
    """``pattern`` as the recipe writes it; of a path that begins at a root or a home, its last part."""
    return pattern if pattern[:1] not in "/~" and pattern[1:2] != ":" else re.split(r"[/\\]", pattern)[-1]


def _share_or_rows(value: float) -> float:
    if value <= 0 or (value >= 1 and not float(value).is_integer()):
        raise ValueError(f"{value!r} is neither a share between 0 and 1 nor a number of rows")
    return value


def _current_word(value: Any) -> Any:
    return OLD_ACCEPT.get(value, value) if isinstance(value, str) else value


def _batch_size(value: Any) -> Any:
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{value!r} is neither a whole number from 1 on nor 'auto'")
    return value


Name = Annotated[str, AfterValidator(_name)]
"""A name that the recipe chooses and that becomes the name of a file."""
RepoId = Annotated[str, AfterValidator(_repo_id)]
Branch = Annotated[str, AfterValidator(_branch)]
HubName = Annotated[str, AfterValidator(_hub)]
Split = Annotated[str, AfterValidator(_split)]
DataFiles = Annotated[str | Annotated[tuple[str, ...], Field(strict=False)], AfterValidator(_files)]
ColumnRole = Literal[
    "system", "prompt", "input", "completion", "chosen", "rejected", "label", "messages", "tools", "text"
]
"""What a column can be, whatever it is called."""
Url = Annotated[str, AfterValidator(_url)]
Contact = Annotated[str, AfterValidator(_contact)]
"""An e-mail address, or a page."""
ShortDescription = Annotated[str, AfterValidator(_short_description)]
"""What the Hub shows on the tile of a Space."""
License = Annotated[str, AfterValidator(_license)]
TrainOn = Literal["last", "all"]
DType = Literal["bfloat16", "float16", "float32"]
BatchSize = Annotated[Annotated[int, Field(gt=0)] | Literal["auto"], BeforeValidator(_batch_size)]
Accepted = Annotated[
    Literal["truncated-end-of-turn", "dropped-rows", "benchmark-overlap"], BeforeValidator(_current_word)
]


class Model(BaseModel):
    """A frozen part of a recipe; an unknown key is a mistake."""

    LATER: ClassVar[frozenset[str]] = frozenset()
    """Keys that came later, and are left out of the plain values where they hold their defaults.

    So digests of a recipe that does not use them, and the keys of artifacts, are those of before.
    """
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        if not hasattr(self, "LATER"):  # pydantic passes on what a copy was given unchecked
            return plain
        fields = type(self).model_fields
        unused = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in plain.items() if name not in unused} if unused else plain


ShareOrRows = Annotated[float | int, AfterValidator(_share_or_rows)]
"""A share of rows below 1, or a number of them."""
