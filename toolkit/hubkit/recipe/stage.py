"""The contract of a stage: what it declares, what it is given and what it returns.

A stage is a module with three types and two functions::

    @dataclass(frozen=True)
    class Settings:                      # what it reads of the recipe
        seed: int

        @classmethod
        def of(cls, recipe: Recipe, scope: Scope) -> Settings:
            return cls(seed=recipe.seed)

    @dataclass(frozen=True)
    class Inputs:                        # what it reads of the steps before: typed artifacts
        base: PinnedBase

    Output = MergedWeights               # what it makes

    def check(ctx: CheckContext[Settings]) -> Iterable[Finding]: ...
    def run(ctx: Context[Settings, Inputs]) -> StageResult[MergedWeights]: ...

The key of what it makes is computed from every field of ``Settings`` and the digest of every field of ``Inputs``
(:mod:`hubkit.pipeline.keys`). A stage sees nothing else, so it cannot depend on what its key does not hold.

Training takes hours, so a training stage may say what of that can change the weights: ``Settings.counted()`` returns
what counts of the settings, and ``Inputs.COUNTED`` maps a field to a function of its stored artifact. Versions are
recorded and do not count (:mod:`hubkit.pipeline.made_from`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from hubkit.core.files import Digests
from hubkit.core.findings import Finding
from hubkit.core.target import Target
from hubkit.recipe.artifact import TypedArtifact
from hubkit.recipe.models import Recipe

S_co = TypeVar("S_co", covariant=True)
I_co = TypeVar("I_co", covariant=True)
A_co = TypeVar("A_co", bound=TypedArtifact, covariant=True)

Report = Callable[[str, float | None], None]
"""How a running stage reports progress: (figure in words, share done from 0 to 1 or None)."""


def silent(figure: str, share: float | None) -> None:
    """Report nothing."""


class Note(Protocol):
    """How a stage records a point that it passed, with facts: a line of the run's journal, on disk at once."""

    def __call__(self, point: str, **facts: Any) -> None:
        """Record that ``point`` was passed."""
        ...


def no_note(point: str, **facts: Any) -> None:
    """Record nothing."""


@dataclass(frozen=True)
class Scope:
    """What a step is made for: the variant or the training stage, and the folder with the recipe's files."""

    recipe_folder: Path
    variant: str | None = None
    training: str | None = None

    @property
    def published(self) -> str:
        """The name of the variant, for a step that is made for each variant."""
        if self.variant is None:
            raise ValueError("this stage belongs in a step that is made for each variant")
        return self.variant


@dataclass(frozen=True)
class Options:
    """Options of the command that change what a stage does. They never count for a key."""

    overwrite_card: bool = False
    """Replace edits of the cards on the Hub."""
    thorough: bool = False
    """Prove every number of the merged weights, and not a sample."""
    report_data: bool = False
    """Report errors in the data instead of refusing them, for `hubkit data`."""


@dataclass(frozen=True)
class Noted:
    """A point that an earlier attempt of this step passed."""

    point: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Earlier:
    """What earlier attempts of this step left, so that nothing is done twice. It never shapes the artifact.

    ``notes`` are what they recorded with ``note``, oldest first; ``artifact`` is the folder of the artifact that the
    step made under another key.
    """

    notes: tuple[Noted, ...] = ()
    artifact: Path | None = None


@dataclass(frozen=True)
class BaseRepo:
    """The base of the release, as the recipe names it. ``provided``: a step creates the repo if the Hub lacks it."""

    repo: str
    revision: str
    provided: bool = False


@dataclass(frozen=True)
class CheckContext(Generic[S_co]):
    """What ``check`` is given. There are no inputs yet.

    ``base`` is what the release will train, so that a check can compare with it; None where no Hub may be asked.
    """

    settings: S_co
    target: Target
    options: Options = Options()
    base: BaseRepo | None = None


@dataclass(frozen=True)
class Context(Generic[S_co, I_co]):
    """What ``run`` is given, and all that it may read.

    ``settings`` and ``inputs`` make the artifact's key. ``out`` is the empty folder in which the stage makes its
    files; ``scratch`` survives a kill, and is removed when the step is done or its key changes. ``report`` shows
    progress, ``note`` records a point in the journal. ``options`` and ``earlier`` never count for the key.
    """

    settings: S_co
    inputs: I_co
    target: Target
    out: Path
    scratch: Path
    report: Report = silent
    note: Note = no_note
    options: Options = Options()
    earlier: Earlier = Earlier()


@dataclass(frozen=True)
class StageResult(Generic[A_co]):
    """What ``run`` returns: the artifact, and what is shown of it to people.

    The pipeline saves the ``artifact`` to ``out`` and seals the folder. ``figure`` is the result in a few words;
    ``facts`` are shown by ``hubkit runs show --json``. ``digests`` are those of files in ``out`` that the stage knows
    from writing them: these files are not read again.
    """

    artifact: A_co
    figure: str
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, Digests] = field(default_factory=dict)


@dataclass(frozen=True)
class NoInputs:
    """The ``Inputs`` of a stage that reads no artifact."""


class SettingsType(Protocol):
    """The type of a stage's settings."""

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Any:
        """What the stage reads of ``recipe`` for ``scope``. It raises nothing: ``check`` reports mistakes."""
        ...


class Stage(Protocol):
    """A stage's module; a third party's counts as ours (entry-point group ``hubkit.stages``).

    It may also define ``outdated(ctx, artifact) -> str | None``: what has changed on the Hub, or on this machine,
    since the artifact was made. The runner asks before it keeps the artifact. And ``run_together(ctxs)``, a list of
    what ``run`` returns for each: variants whose inputs are all there share the work (reading a base). Each artifact
    must be what ``run`` makes alone. When it fails, ``run`` is called for each. And ``ahead(ctx)`` with ``AHEAD``, the
    names of the inputs that it reads: what can be done beside other steps as soon as these are there (the other inputs
    are None). It makes no artifact, and returns what it did in words.
    """

    VERSION: int
    """Raised when what the stage makes from the same inputs changes."""
    SHAPED_BY: tuple[str, ...]
    """Distributions whose version shapes the result."""
    Settings: type[SettingsType]
    Inputs: type
    Output: type[TypedArtifact]

    def check(self, ctx: CheckContext[Any]) -> Iterable[Finding]:
        """What is wrong, found without GPU time. Preflight calls it, in a worker, before anything runs."""
        ...

    def run(self, ctx: Context[Any, Any]) -> StageResult[Any]:
        """Make the artifact."""
        ...
