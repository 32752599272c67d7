"""What a step leaves behind: a folder, sealed by a manifest, that is read through a typed artifact.

A typed artifact is a frozen dataclass with ``load(folder)`` and ``save(folder)``. It belongs to the package that knows
the thing (the base model to ``models``, stop rates to ``models.chat``, ...), and only its own file knows how its JSON
is spelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from hubkit.core.errors import ConflictError
from hubkit.core.files import MANIFEST, Manifest, digests, read_json, write_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class StoredArtifact:
    """A finished artifact as the run keeps it: its folder, key and manifest, and what is shown of it to people.

    ``made_from`` is what its key was computed of, for a training; None where that was not recorded.
    """

    path: Path
    key: str
    manifest: Manifest
    summary: Mapping[str, Any]
    seconds: float
    made_from: Mapping[str, Any] | None = None


class TypedArtifact(Protocol):
    """What the pipeline asks of the type of an artifact."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the artifact in ``folder``."""
        ...

    def save(self, folder: Path) -> None:
        """Write to ``folder`` what :meth:`load` reads. Other files of the artifact are there already."""
        ...


@dataclass(frozen=True)
class ArtifactFolder:
    """The folder of an artifact, and the digests of its files."""

    folder: Path = field(default=Path(), kw_only=True, compare=False, repr=False)

    @cached_property
    def contents(self) -> Manifest:
        """The files with their digests, from the manifest that seals the folder (measured where there is none)."""
        kept = self.folder / MANIFEST
        return Manifest.from_json(read_json(kept)) if kept.is_file() else Manifest.of(self.folder)


@dataclass(frozen=True)
class JsonArtifact(ArtifactFolder):
    """An artifact whose facts are in the JSON file ``FILE``: one key for each field of the dataclass."""

    FILE: ClassVar[str]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``FILE`` in ``folder``. ConflictError when it does not hold what the fields ask for."""
        return cls.parse(read_json(folder / cls.FILE), folder)

    @classmethod
    def parse(cls, value: Any, folder: Path = Path()) -> Self:
        """The artifact in the plain ``value``, as :meth:`to_json` writes it."""
        from pydantic import ValidationError

        try:
            found: Self = _adapter(cls).validate_python({**value, "folder": folder})
        except (ValidationError, TypeError) as error:
            problem = str(error).splitlines()
            raise ConflictError(
                f"{folder / cls.FILE} cannot be read as {cls.__name__}: {' '.join(problem[1:3]) or problem[0]}",
                hint="Remove the artifact's folder and run the same command again.",
            ) from error
        return found

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values, in the order of the fields."""
        plain: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json", exclude={"folder"})
        return plain

    def save(self, folder: Path) -> None:
        """Write ``FILE`` to ``folder``."""
        write_json(folder / self.FILE, self.to_json())


def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


@dataclass(frozen=True)
class NamedFile:
    """A file or folder that the recipe names. Its ``digest`` counts for a key, and its path does not.

    ``digest`` is empty while there is no such file.
    """

    path: Path
    digest: str

    @classmethod
    def beside(cls, folder: Path, name: str) -> NamedFile:
        """The file or folder ``name`` of the recipe in ``folder``."""
        path = folder.absolute() / name
        if path.is_dir():
            return cls(path, Manifest.of(path).digest)
        return cls(path, digests(path).sha256 if path.is_file() else "")

    @property
    def exists(self) -> bool:
        """Whether the file was there when the recipe was read."""
        return bool(self.digest)
