"""Take an adapter, or the weights of a whole model, that was trained elsewhere. Nothing is trained.

    stages:
      mine:
        uses: adopt
        adapter: ./out                       # a PEFT folder, a trainer's output folder, or owner/repo@revision
        trained_with: axolotl 0.9            # optional, shown on the card as reported
        training: ./out/trainer_state.json   # optional, likewise

With ``weights: ./merged`` a full fine-tune or a merged model is taken instead. Another stage may continue an adopted
adapter. The files are checked against the base before anything else runs: the base that the adapter names, its tensors,
numbers that are not finite; a pickle is refused. The adopted adapter names the base's repo and commit.

Writes ``adapter/`` or ``weights/``, and ``training.json``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubkit.checks.screening import numbers_of, screen, screen_file
from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.core.errors import HubkitError, RefusedError
from hubkit.core.files import digests, write_json
from hubkit.core.findings import Finding
from hubkit.core.numbers import counted, short_commit
from hubkit.core.target import Target
from hubkit.models.base import PinnedBase
from hubkit.models.base_files import read_base
from hubkit.models.merging.readable import adapter_for_all, peft_defaults
from hubkit.models.tensors import Tensor
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import ADOPT
from hubkit.recipe.stage import CheckContext, Context, Scope, StageResult
from hubkit.training.adapter import TrainedAdapter, TrainedOn
from hubkit.training.adoption import fitting, places, reports
from hubkit.training.adoption.base_names import BaseName, match_base
from hubkit.training.adoption.places import Form, RepoPlace
from hubkit.training.data.prepared import TrainingRows

if TYPE_CHECKING:
    from hubkit.hub.client import Hub

VERSION = 2
SHAPED_BY: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What is adopted, as which stage; ``base``, ``trained_with`` and ``reports`` are what the person says of it."""

    name: str
    form: Form
    source: NamedFile | str
    base: str | None
    quantization: Literal["nf4", "none"]
    trained_with: str | None
    reports: tuple[NamedFile, ...]

    @classmethod
    def of(cls, recipe: Recipe, scope: Scope) -> Settings:
        """Build the settings for this scope from the recipe."""
        name = scope.training or ""
        stage = recipe.stages[name]
        form: Form = "weights" if stage.weights else "adapter"
        place = places.place_of(stage.adopted or "", scope.recipe_folder)
        return cls(
            name=name,
            form=form,
            source=str(place) if isinstance(place, RepoPlace) else NamedFile(place, places.digest(place, form)),
            base=stage.base,
            quantization=stage.quantization,
            trained_with=stage.trained_with,
            reports=tuple(NamedFile.beside(scope.recipe_folder, file) for file in stage.reports),
        )

    @property
    def key(self) -> str:
        """The stage's place in the recipe."""
        return f"stages.{self.name}"

    @property
    def repo(self) -> RepoPlace | None:
        """The repo that is adopted; None for a folder."""
        if isinstance(self.source, NamedFile):
            return None
        repo, _, revision = self.source.partition("@")
        return RepoPlace(repo, revision)


@dataclass(frozen=True)
class Inputs:
    """The base. ``rows`` and ``previous`` are None: nothing is trained."""

    base: PinnedBase
    rows: TrainingRows | None
    previous: TrainedAdapter | None


Output = TrainedAdapter


@dataclass(frozen=True)
class _Found:
    """The folder with the files, the commit of a repo, and the folder's place in what the recipe names."""

    folder: Path
    name: str
    commit: str | None = None
    inner: str = ""


def check(ctx: CheckContext[Settings]) -> Iterator[Finding]:
    """Everything that can be wrong with it but the numbers of a whole model's weights, which are read when it runs."""
    settings = ctx.settings
    for file in settings.reports:
        try:
            reports.read_report(file.path)
        except HubkitError as error:
            yield Finding("error", f"{settings.key}.training: {error.message}", error.hint, error.exit_code)
    try:
        _check_files(ctx)
    except HubkitError as error:
        hint = error.hint or "Save it again where it was trained."
        yield Finding("error", f"{settings.key}.{settings.form}: {error.message}", hint, error.exit_code)


def _check_files(ctx: CheckContext[Settings]) -> None:
    settings = ctx.settings
    if settings.repo is not None and not ctx.target.endpoint:
        return
    found = _find(ctx.target, settings, whole=settings.form == "adapter")
    with tempfile.TemporaryDirectory(prefix="hubkit-") as folder:
        for path in places.taken(found.folder, settings.form):
            problems = screen_file(path.name, _publishable(path, Path(folder)))
            if settings.form == "adapter" and not problems and path.suffix == ".safetensors":
                problems = numbers_of(path.name, path.resolve())
            _refuse(problems)
    if ctx.base is None or (files := read_base(ctx.target, ctx.base)) is None or files.config is None:
        return
    _compare(ctx.target, settings, found, files.repo, files.commit, files.config)


def _publishable(path: Path, into: Path) -> Path:
    """The file that would be published of ``path``: itself, or a config without names of the author's machine."""
    if path.name not in _NAMING:
        return path.resolve()
    plain = fitting.read_settings(path.parent, path.name)
    write_json(into / path.name, {key: value for key, value in plain.items() if key not in _NAMING[path.name]})
    return into / path.name


def _defaults(adapter: Mapping[str, Any]) -> Mapping[str, Any]:
    """What PEFT has for each key of such an adapter; nothing for other kinds than LoRA."""
    from peft import LoraConfig

    return peft_defaults(LoraConfig) if adapter.get("peft_type") == "LORA" else {}


_NAMING: Mapping[str, tuple[str, ...]] = {
    places.ADAPTER_CONFIG: ("auto_mapping", "base_model_name_or_path", "revision"),
    places.CONFIG: ("_name_or_path",),
    "tokenizer_config.json": ("name_or_path",),
}
"""Keys in which trainers write what they loaded from where; of the base an adapter names the repo instead."""


def _refuse(problems: list[Finding]) -> None:
    if problems:
        listed = " ".join(item.sentence for item in problems[:5])
        raise RefusedError(f"It must not be published: {listed}", hint="Save it again, without what is named here.")


def _find(target: Target, settings: Settings, *, whole: bool) -> _Found:
    """The files, downloaded where they are in a repo; unless ``whole`` only what is small of a model's."""
    if isinstance(settings.source, NamedFile):
        place = settings.source.path
        folder = places.find_folder(place, settings.form)
        return _Found(folder, place.name, inner="" if folder == place else folder.name)
    from hubkit.hub.client import connect

    repo = RepoPlace(*settings.source.split("@", 1))
    hub = connect(target)
    commit = hub.resolve(repo.repo, repo.revision)
    inner, names = _in_repo(hub, repo, commit, settings.form)
    patterns = [inner + name for name in names if whole or not name.endswith(".safetensors")]
    folder = hub.download(repo.repo, commit, patterns=patterns) / inner
    return _Found(folder, str(repo), commit, inner.rstrip("/"))


def _in_repo(hub: Hub, repo: RepoPlace, commit: str, form: Form) -> tuple[str, list[str]]:
    """The folder in a repo ('' or 'adapter/'), and the names of the files to take of it.

    RefusedError when it has not what is needed.
    """
    tree = hub.tree(repo.repo, commit)
    config = places.CONFIG if form == "weights" else places.ADAPTER_CONFIG
    inner = f"{places.INNER}/" if form == "adapter" and config not in tree else ""
    paths = [path.removeprefix(inner) for path in tree if path.startswith(inner)]
    names = [name for name in paths if places.is_taken(name, form)]
    if config not in names or not any(name.endswith(".safetensors") for name in names):
        lacks = config if config not in names else "safetensors weights"
        raise RefusedError(f"{repo} has no {lacks}.", hint="Name a repo with them in its root.")
    return inner, names


def _compare(target: Target, settings: Settings, found: _Found, repo: str, commit: str, config: bytes) -> BaseName:
    """How the base is known to be ``repo`` at ``commit``, whose tensors it fits. RefusedError when either is not so."""
    from hubkit.hub.client import connect

    base_config, tensors = _object(config), fitting.remote_tensors(target, repo, commit)
    if settings.form == "adapter":
        adapter = fitting.read_settings(found.folder, places.ADAPTER_CONFIG)
        name = match_base(adapter, connect(target), repo, commit, settings.base, settings.key)
        fitting.fitted_adapter(found.folder, tensors, base_config)
        return name
    own = fitting.read_settings(found.folder, places.CONFIG)
    if any(path.suffix == ".safetensors" for path in places.taken(found.folder, "weights")):
        mine: Mapping[str, Any] = fitting.local_tensors(found.folder)
    else:
        place = settings.repo
        assert place is not None and found.commit is not None
        mine = fitting.remote_tensors(target, place.repo, found.commit)
    fitting.refuse_other_model(found.name, mine, own, tensors, base_config)
    return BaseName(None, "config")


def _compare_copy(settings: Settings, taken: _Found, config: Mapping[str, Any], base: Mapping[str, Tensor]) -> None:
    """RefusedError when the files that were copied are no longer those that were compared with the base."""
    if settings.form == "adapter":
        fitting.fitted_adapter(taken.folder, base, config)
    else:
        own = fitting.read_settings(taken.folder, places.CONFIG)
        fitting.refuse_other_model(taken.name, fitting.local_tensors(taken.folder), own, base, config)


def _object(config: bytes) -> dict[str, Any]:
    try:
        found = load_json(config, SETTINGS)
    except JsonError as error:
        raise RefusedError(f"The base's config.json {error}.", hint="Use another base.") from error
    return found if isinstance(found, dict) else {}


def run(ctx: Context[Settings, Inputs]) -> StageResult[TrainedAdapter]:
    """Copy the files and check them again. RefusedError when they are not what can be released."""
    from hubkit.hub.client import connect

    settings, base = ctx.settings, ctx.inputs.base
    ctx.report("reading what is adopted", None)
    found = _find(ctx.target, settings, whole=True)
    config = connect(ctx.target).read_listed(base.repo, "config.json", base.commit) or b"{}"
    out = ctx.out / settings.form
    out.mkdir()
    for path in places.taken(found.folder, settings.form):
        ctx.report(f"copying {path.name}", None)
        if (made := _publishable(path, out)) != out / path.name:
            shutil.copyfile(made, out / path.name)
    copied = {path.name: digests(path).sha256 for path in sorted(out.iterdir())}
    name = _compare(ctx.target, settings, found, base.repo, base.commit, config)
    taken = replace(found, folder=out)
    _compare_copy(settings, taken, _object(config), fitting.remote_tensors(ctx.target, base.repo, base.commit))
    adapter: Mapping[str, Any] = {}
    if settings.form == "adapter":
        adapter = fitting.read_settings(out, places.ADAPTER_CONFIG)
        bound = {"base_model_name_or_path": base.repo, "revision": base.commit, "inference_mode": True}
        fitted = {**adapter, **bound, "task_type": adapter.get("task_type") or _TASK}
        write_json(out / places.ADAPTER_CONFIG, adapter_for_all(fitted, _defaults(fitted)))
    ctx.report("screening it", None)
    _refuse(screen({f"{settings.form}/{path.name}": path for path in sorted(out.iterdir())}))
    artifact = _made(settings, base, taken, name, adapter, copied)
    what = f"rank {adapter.get('r')}" if adapter else counted(len(copied), "file")
    at = f" at {short_commit(found.commit)}" if found.commit else ""
    inner = f", {found.inner}" if found.inner else ""
    warnings = tuple(_other_template(found.folder, base))
    return StageResult(artifact, f"{found.name}{inner}{at}  {what}", warnings)


def _made(
    settings: Settings,
    base: PinnedBase,
    found: _Found,
    name: BaseName,
    adapter: Mapping[str, Any],
    copied: Mapping[str, str],
) -> TrainedAdapter:
    weights = {file: digest for file, digest in copied.items() if file.endswith(".safetensors")}
    files = [reports.read_report(file.path) for file in settings.reports]
    return TrainedAdapter(
        stage=settings.name,
        form=settings.form,
        uses=ADOPT,
        method=ADOPT,
        base=TrainedOn(base.repo, base.commit),
        quantization=settings.quantization,
        lora={key: value for key in _SHOWN if (value := adapter.get(key)) is not None and value is not False},
        reported={"trained_with": settings.trained_with, "files": files},
        origin={
            "name": found.name,
            "commit": found.commit,
            "file": found.inner,
            "base_name": name.name,
            "base_by": name.by,
            "digests": weights,
        },
    )


_TASK = "CAUSAL_LM"
_SHOWN = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "modules_to_save")


def _other_template(folder: Path, base: PinnedBase) -> Iterator[str]:
    """A sentence when the folder has a chat template of its own that is not the one of this release."""
    path = folder / "chat_template.jinja"
    if path.is_file() and path.stat().st_size < 2**20:
        own = path.read_text(encoding="utf-8", errors="replace")
        if own.strip() not in {base.template.strip(), base.training_template.strip()}:
            yield (
                f"{path.name} beside what is adopted is not the chat template of this release. If it was trained with "
                "it, name that file as chat.template in the recipe."
            )


def outdated(ctx: Context[Settings, Inputs], artifact: TrainedAdapter) -> str | None:
    """Whether the revision of the repo that was adopted names another commit now."""
    place = ctx.settings.repo
    if place is None:
        return None
    from hubkit.hub.client import connect

    now, before = connect(ctx.target).resolve(place.repo, place.revision), artifact.origin.get("commit")
    return None if now == before else f"{place} was at {short_commit(before)} and is now at {short_commit(now)}"
