"""What the manifest of a release says of what it was made from, read with care: it may come from anybody.

A fact that is missing, or of another type than hubkit writes, is None: nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hubkit.core.names import named_repo_problem

LICENSE_UNKNOWN = frozenset({"", "unknown"})


@dataclass(frozen=True)
class Dataset:
    """One source of the data. ``commit`` is that of its repo, or the sha256 of local files.

    ``config`` is the configuration (subset) of the repo that was read, where the recipe names one.
    """

    set: str
    repo: str
    config: str | None
    commit: str | None
    split: str | None
    license: str | None
    rows: int | None
    local: bool


@dataclass(frozen=True)
class Training:
    """One training stage that led to the variant, as it was measured."""

    stage: str
    facts: Mapping[str, Any]

    def number(self, name: str) -> float | None:
        """The fact ``name`` if it is a number."""
        return _number(self.facts.get(name))


@dataclass(frozen=True)
class Base:
    """The base model."""

    repo: str
    commit: str | None
    license: str | None
    architecture: str | None
    parameters: int | None


@dataclass(frozen=True)
class Facts:
    """The manifest as typed facts."""

    content: Mapping[str, Any]

    @property
    def repo(self) -> str | None:
        """The repo that it was made for."""
        return _repo(self.content.get("repo"))

    @property
    def variant(self) -> str | None:
        """The variant that it is."""
        return text(self.content.get("variant"))

    @property
    def license(self) -> str | None:
        """The license on its card."""
        return _license(self.content.get("license"))

    @property
    def base(self) -> Base | None:
        """The base model; None when the manifest names none."""
        found = mapping(self.content.get("base"))
        repo = _repo(found.get("repo"))
        if repo is None:
            return None
        return Base(
            repo,
            text(found.get("commit")),
            _license(found.get("license")),
            text(found.get("architecture")),
            _count(found.get("parameters")),
        )

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """What was trained on: the sources whose set a stage of the recipe uses, or all where that is not known."""
        used = {text(stage.get("data")) for stage in self._stages()}
        found = []
        for source, config in self._sources():
            name, repo = text(source.get("set")), text(source.get("repo"))
            if name is None or repo is None or (used - {None} and name not in used):
                continue
            found.append(
                Dataset(
                    name,
                    repo,
                    config,
                    text(source.get("commit")),
                    text(source.get("split")),
                    _license(source.get("license")),
                    _count(source.get("rows")),
                    source.get("local") is True,
                )
            )
        return tuple(found)

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The training stages, in the order of their training; empty in manifests of earlier versions."""
        found = [mapping(item) for item in sequence(self.content.get("trainings"))]
        return tuple(Training(str(item["stage"]), item) for item in found if text(item.get("stage")))

    @property
    def libraries(self) -> Mapping[str, str]:
        """Versions of the libraries, hubkit's own among them."""
        found = mapping(self.content.get("made_by")).items()
        return {name: value for name, value in found if name and isinstance(value, str)}

    @property
    def adopted(self) -> bool:
        """Whether it was trained elsewhere."""
        return bool(self.content.get("adopted"))

    def _sources(self) -> Iterator[tuple[Mapping[str, Any], str | None]]:
        """The sources, each with the configuration that the recipe names for it: both list those of a set in order."""
        recipe, places = mapping(mapping(self.content.get("recipe")).get("data")), dict[str, int]()
        for source in map(mapping, sequence(self.content.get("data"))):
            name = str(source.get("set"))
            place = places[name] = places.get(name, -1) + 1
            listed = sequence(recipe.get(name))
            yield source, text(mapping(listed[place]).get("config")) if place < len(listed) else None

    def _stages(self) -> Sequence[Mapping[str, Any]]:
        return [mapping(item) for item in mapping(mapping(self.content.get("recipe")).get("stages")).values()]


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str | None:
    """``value`` if it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


def _repo(value: Any) -> str | None:
    found = text(value)
    return None if found is None or named_repo_problem(found) else found


def _license(value: Any) -> str | None:
    found = text(value)
    return None if found is None or found.lower() in LICENSE_UNKNOWN else found


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) and 0 <= value < float("inf") else None
