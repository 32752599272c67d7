"""What `hubkit release --adapter` finds out before it writes a recipe: the base, reports of the training, template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hubkit.core.bounded_json import JsonError, load_json
from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.models.merging.companions import TEMPLATE
from hubkit.training.adoption import fitting, places, reports
from hubkit.training.adoption.base_names import may_be_stated, named_base
from hubkit.training.adoption.places import Form, RepoPlace

_REPORTS = ("trainer_state.json", "train_results.json", "all_results.json")


@dataclass(frozen=True)
class AdoptionFacts:
    """``base`` is the repo to use; see :class:`hubkit.recipe.adopted_draft.AdoptedDraft` for the rest."""

    base: str
    stated_base: str | None = None
    quantized: bool = False
    reports: tuple[str, ...] = ()
    template: str | None = None


def read_adoption(target: Target, source: str, form: Form, base: str | None) -> AdoptionFacts:
    """What is known of the adapter or weights ``source``, named as in a recipe of the current folder.

    UsageError when ``base`` is needed and not given, or ``source`` is not there; RefusedError for a pickle.
    """
    place = places.place_of(source, Path())
    if isinstance(place, RepoPlace):
        return _of_repo(target, place, form, base)
    folder = places.find_folder(place, form)
    settings = fitting.read_settings(folder, places.ADAPTER_CONFIG) if form == "adapter" else {}
    facts = _named(settings, base)
    found = [path for path in _report_paths(place, folder) if _is_report(path)]
    return AdoptionFacts(
        facts.base,
        facts.stated_base,
        facts.quantized,
        tuple(_as_given(source, place, path) for path in found[:2]),
        _template(target, source, place, folder, facts.base),
    )


def _of_repo(target: Target, place: RepoPlace, form: Form, base: str | None) -> AdoptionFacts:
    hub = connect(target)
    name = places.ADAPTER_CONFIG if form == "adapter" else places.CONFIG
    commit = hub.resolve(place.repo, place.revision)
    body = hub.read_listed(place.repo, name, commit)
    if body is None and form == "adapter":
        body = hub.read_listed(place.repo, f"{places.INNER}/{name}", commit)
    if body is None:
        raise UsageError(f"{place} has no {name}.", hint="Name a repo with it in its root.")
    try:
        settings = load_json(body)
    except JsonError as error:
        raise RefusedError(f"{name} of {place} {error}.") from error
    return _named(settings if form == "adapter" and isinstance(settings, dict) else {}, base)


def _named(settings: dict[str, object], base: str | None) -> AdoptionFacts:
    """The base that ``--base`` names, else the one that adapter_config.json does."""
    named = named_base(settings)
    if base is None:
        if named is None or named.is_path or named.is_mirror:
            raise UsageError(
                "What is adopted does not name its base by its repo." if named is None
                else f"The adapter calls its base {named.public}, which is no repo that a release can name.",
                hint="Pass --base namespace/name.",
            )  # fmt: skip
        return AdoptionFacts(named.name)
    if named is None or not may_be_stated(named):
        return AdoptionFacts(base)
    return AdoptionFacts(base, named.name, named.is_mirror)


def _report_paths(place: Path, folder: Path) -> list[Path]:
    """Files that may report the training: those in the trainer's folder, then those of the checkpoint."""
    at = [place / name for name in _REPORTS] + [folder / name for name in _REPORTS]
    if not any(path.is_file() for path in at):
        at = [path / _REPORTS[0] for path in places.checkpoints(place)]
    return list(dict.fromkeys(path for path in at if path.is_file()))


def _is_report(path: Path) -> bool:
    try:
        reports.read_report(path)
    except HubkitError:
        return False
    return True


def _template(target: Target, source: str, place: Path, folder: Path, base: str) -> str | None:
    """The chat template beside what is adopted, when the base has another one or none."""
    path = next((item for item in (folder / TEMPLATE, place / TEMPLATE) if item.is_file()), None)
    if path is None:
        return None
    own = path.read_text(encoding="utf-8", errors="replace")
    hub = connect(target)
    commit = hub.resolve(base, "main")
    body = hub.read_listed(base, TEMPLATE, commit)
    if body is None:
        config = hub.read_listed(base, "tokenizer_config.json", commit)
        try:
            known = load_json(config) if config else {}
        except JsonError:
            known = {}
        there = known.get("chat_template") if isinstance(known, dict) else None
    else:
        there = body.decode("utf-8", "replace")
    same = isinstance(there, str) and there.strip() == own.strip()
    return None if same else _as_given(source, place, path)


def _as_given(source: str, place: Path, path: Path) -> str:
    """``path``, which is in ``place``, by the name under which the person gave that."""
    inner = path.relative_to(place).as_posix()
    return f"{source.rstrip('/')}/{inner}"
