"""What `hubkit plan` checks of a recipe beyond its form: all that needs no Hub and no GPU.

Names that must exist (chat templates, mappings, suites, files beside the recipe) are checked here and now. The ``args``
and ``lora`` of training stages are checked by TRL's and PEFT's own classes, which take seconds to import: that runs in
a child process (this module), and what had no mistake is remembered until the recipe or a library changes.
`hubkit release` reports the same mistakes in the same words (:func:`refuse`); its worker has TRL imported already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core.errors import HubkitError, RefusedError, UsageError
from hubkit.core.files import digest_of, read_json, write_json
from hubkit.core.findings import Finding
from hubkit.core.late_compiling import compile_late
from hubkit.core.libraries import installed, offered
from hubkit.core.processes.child import answer_question
from hubkit.core.processes.parent import JobFailed, ask_module
from hubkit.core.target import Target
from hubkit.pipeline.example_text import example_text
from hubkit.pipeline.find_stage import find_stage
from hubkit.pipeline.jobs import Job
from hubkit.recipe.mistakes import Mistake, Places, did_you_mean, error_of
from hubkit.recipe.models import Recipe
from hubkit.recipe.names import ADOPT
from hubkit.recipe.stage import CheckContext, Scope

if TYPE_CHECKING:
    from hubkit.training.rehearsal import Method

METHODS = ("dpo", "sft")
"""The stages whose arguments are TRL's; another package's stage checks its own when a release begins."""
_LIBRARIES = ("torch", "transformers", "trl", "peft")
_SHAPES = (*_LIBRARIES, "accelerate", "bitsandbytes", "hubkit")
_REMEMBERED = 100
_SECONDS = 300
_FAILED, _MISTAKE = 1, 2
"""Exit codes: of what fails on this machine although the recipe is right, and of a mistake in it."""


@dataclass(frozen=True)
class Checked:
    """Every mistake that was found, and in a sentence each what could not be checked.

    ``warnings`` are sentences about what works otherwise than meant; ``machine`` are what this machine lacks to train
    the recipe: another one may have it.
    """

    mistakes: tuple[Mistake, ...]
    unchecked: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()


def check_recipe(
    recipe: Recipe,
    folder: Path,
    home: Path,
    announce: Callable[[str], None],
    base_config: Callable[[], bytes | None] = lambda: None,
) -> Checked:
    """Check ``recipe``, whose files are in ``folder``. ``announce`` is called before a check that takes seconds.

    ``base_config`` finds the base's config.json, with which the adapters are compared (None: it is not known here); it
    is called when there is no other mistake. Clean results are remembered in ``home``.
    """
    mistakes, unchecked = [*name_mistakes(recipe, folder), *_adopted_mistakes(recipe, folder)], []
    found, problem = _suite_mistakes(recipe, folder)
    mistakes += found
    unchecked += [item for item in (problem, _unknown_hardware(recipe)) if item]
    arguments, problems = _argument_mistakes(recipe, home, announce, None if mistakes else base_config())
    weak = [
        f"{item.message}." for item, wrong in _condition_problems(recipe, _tasks_folder(recipe, folder)) if not wrong
    ]
    warnings = (*arguments.warnings, *weak, *_without_llama_cpp(recipe), *([] if mistakes else _doubts(recipe, folder)))
    return Checked((*mistakes, *arguments.mistakes), (*unchecked, *problems), warnings, arguments.machine)


def refuse(
    recipe: Recipe,
    folder: Path,
    places: Places,
    training: Iterable[Job],
    check: Callable[[Job], list[Finding]],
) -> None:
    """UsageError that lists the mistakes of ``recipe``, if it has any. ``check`` asks the stage of a training job."""
    mistakes = [*name_mistakes(recipe, folder), *_suite_mistakes(recipe, folder)[0]]
    lacking: list[Mistake] = []
    for job in training:
        found = check(job)
        mistakes += _mistakes_in(found)
        lacking += _mistakes_in(found, exit_code=_FAILED)
    if mistakes:
        raise error_of([*mistakes, *lacking], places)


def name_mistakes(recipe: Recipe, folder: Path) -> Iterator[Mistake]:
    """Names in ``recipe`` that refer to nothing: formats, mappings, stages, recipes, languages, files in ``folder``."""
    from hubkit.core.card_metadata import language_problem
    from hubkit.models.chat.library import choices, setting_problem

    if problem := setting_problem(recipe.chat.template, folder):
        yield Mistake(("chat", "template"), _clause(f"{problem}{'' if problem.endswith('?') else '.'} {choices()}"))
    yield from _mapping_mistakes(recipe)
    for name, stage in recipe.stages.items():
        try:
            find_stage(stage.uses or name)
        except UsageError as error:
            yield Mistake(("stages", name, *(("uses",) if stage.uses else ())), _clause(error.message))
    recipes = list(offered("hubkit.recipes"))
    if recipe.provide and recipe.provide not in recipes:
        yield Mistake(
            ("provide",), f"no installed recipe is called {recipe.provide!r}{did_you_mean(recipe.provide, recipes)}"
        )
    for code in recipe.card.language:
        if problem := language_problem(code):
            yield Mistake(("card", "language"), _clause(problem))
    yield from _missing_files(recipe, folder)
    yield from example_text(recipe)


def _mapping_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    from hubkit.training.data.mappings import METHOD_KINDS, form_called, must_train, name_problem

    for name, sources in recipe.data.items():
        stages = [(stage, known) for stage, known in recipe.stages.items() if known.data == name]
        for number, source in enumerate(sources):
            if source.mapping is None:
                continue
            where = ("data", name, str(number), "mapping")
            if problem := name_problem(source.mapping):
                yield Mistake(where, _clause(problem))
                continue
            for stage, known in stages:
                method = known.uses or stage
                form = form_called(source.mapping).suited(METHOD_KINDS.get(method))
                try:
                    must_train(stage, method, name, {form.kind})
                except UsageError as error:
                    yield Mistake(where, _clause(error.message))


def _missing_files(recipe: Recipe, folder: Path) -> Iterator[Mistake]:
    from hubkit.training.data.files import matching

    for name, sources in recipe.data.items():
        for number, source in enumerate(sources):
            try:
                matching(folder, source)
            except UsageError as error:
                yield Mistake(("data", name, str(number), "file"), _clause(error.message))
    if recipe.card.template and not (folder / recipe.card.template).exists():
        problem = f"there is no file or folder {recipe.card.template!r} beside the recipe"
        yield Mistake(("card", "template"), problem)
    if recipe.evaluate.include and not (folder / recipe.evaluate.include).is_dir():
        yield Mistake(("evaluate", "include"), f"there is no folder {recipe.evaluate.include!r} beside the recipe")
    for name, stage in recipe.stages.items():
        for file in stage.reports:
            if not (folder / file).is_file():
                yield Mistake(("stages", name, "training"), f"there is no file {file!r} beside the recipe")
    yield from _result_file_mistakes(recipe, folder)
    if recipe.sign and recipe.sign.key and not (folder / recipe.sign.key).is_file():
        yield Mistake(("sign", "key"), f"there is no file {recipe.sign.key!r} beside the recipe")


def _without_llama_cpp(recipe: Recipe) -> Iterator[str]:
    """What the GGUF files need of this machine and is not installed, a sentence or two."""
    from hubkit.models.gguf.library import RUNTIME

    if recipe.gguf is None or installed(RUNTIME) is not None:
        return
    from hubkit.models.gguf.runtime_needs import without_runtime

    enforced = recipe.gates.stop_rate is not None and any(
        recipe.gguf_gate(name) == "enforce" for name in recipe.gguf_variants()
    )
    found = without_runtime(recipe.gguf.types, benchmarks=bool(recipe.gguf.benchmarks), enforced=enforced)
    yield f"{found.message} {found.hint}".strip()


def _doubts(recipe: Recipe, folder: Path) -> list[str]:
    """What deserves a second look in the files of ``evaluate.results``."""
    if not recipe.evaluate.results:
        return []
    from hubkit.cards.reported import doubts_of
    from hubkit.evals.reported import read_reported

    return doubts_of(recipe, read_reported(folder, recipe.evaluate.results))


def _result_file_mistakes(recipe: Recipe, folder: Path) -> Iterator[Mistake]:
    """Files of ``evaluate.results`` that are missing, or hold no results."""
    from hubkit.evals.reported import read_reported

    for name, patterns in recipe.evaluate.results.items():
        try:
            read_reported(folder, {name: patterns})
        except HubkitError as error:
            yield Mistake(("evaluate", "results", name), _clause(error.message))


def _adopted_mistakes(recipe: Recipe, folder: Path) -> Iterator[Mistake]:
    """Folders that are adopted and have not what is needed. That it fits the base is seen when a release begins."""
    from hubkit.training.adoption.places import Form, find_folder, place_of

    for name, stage in recipe.stages.items():
        if stage.adopted is not None and isinstance(place := place_of(stage.adopted, folder), Path):
            form: Form = "weights" if stage.weights else "adapter"
            try:
                find_folder(place, form)
            except HubkitError as error:
                yield Mistake(("stages", name, form), _clause(error.message))


def _suite_mistakes(recipe: Recipe, folder: Path) -> tuple[list[Mistake], str | None]:
    from hubkit.evals.suites import resolve

    include = _tasks_folder(recipe, folder)
    if include is not None and not include.is_dir():
        return [], None  # reported with the other missing files
    mistakes, unknown = [], []
    for name in dict.fromkeys(recipe.evaluate.suites):
        try:
            resolve([name], include)
        except HubkitError as error:
            if installed("lm_eval") is None:
                unknown.append(name)
            else:
                problem = (
                    f"{error.message.removesuffix('.')}; {error.hint[0].lower()}{error.hint[1:]}"
                    if error.hint
                    else error.message
                )
                mistakes.append(Mistake(("evaluate", "suites"), _clause(problem)))
    if not unknown:
        return [*mistakes, *(item for item, wrong in _condition_problems(recipe, include) if wrong)], None
    return mistakes, (
        f"whether lm-evaluation-harness has {', '.join(unknown)}: it is not installed (pip install 'hubkit[eval]')"
    )


def _tasks_folder(recipe: Recipe, folder: Path) -> Path | None:
    """The folder of the recipe's own task files."""
    return folder / recipe.evaluate.include if recipe.evaluate.include else None


def _condition_problems(recipe: Recipe, include: Path | None) -> Iterator[tuple[Mistake, bool]]:
    """What is to be said of the conditions on benchmarks, and whether it is a mistake."""
    from hubkit.evals.quality_gate import condition_problems
    from hubkit.evals.suites import resolve

    conditions = recipe.gates.conditions()
    if not conditions:
        return
    try:
        suites = resolve(recipe.evaluate.suites, include)
    except HubkitError:
        return  # reported with the unknown suites
    for condition, problem, wrong in condition_problems(conditions, suites, recipe.evaluate.limit):
        yield Mistake(("gates", "benchmarks", condition.benchmark), problem), wrong


def _unknown_hardware(recipe: Recipe) -> str | None:
    """A sentence for a hardware that the installed huggingface_hub does not list; a Hub may have newer ones."""
    if recipe.space is None or recipe.space.hardware is None:
        return None
    from huggingface_hub import SpaceHardware

    known = [item.value for item in SpaceHardware]
    if recipe.space.hardware in known:
        return None
    meant = did_you_mean(recipe.space.hardware, known)
    return f"whether the Hub has the hardware {recipe.space.hardware!r}, which huggingface_hub does not list{meant}"


_NOTHING = Checked((), ())


def _argument_mistakes(
    recipe: Recipe, home: Path, announce: Callable[[str], None], config: bytes | None
) -> tuple[Checked, list[str]]:
    unchecked = [
        f"the arguments of the stage {name}: its code {stage.uses or name} checks them when a release begins"
        for name, stage in recipe.stages.items()
        if (stage.uses or name) not in (*METHODS, ADOPT)
    ] + [
        f"whether what the stage {name} adopts fits the base: that is checked when a release begins"
        for name, stage in recipe.stages.items()
        if stage.adopted is not None
    ]
    trained = [name for name, stage in recipe.stages.items() if (stage.uses or name) in METHODS]
    if not trained:
        return _NOTHING, unchecked
    missing = [name for name in _LIBRARIES if installed(name) is None]
    if missing:
        what = f"the training arguments: {', '.join(missing)} not installed (pip install 'hubkit[train]')"
        return _NOTHING, [*unchecked, what]
    remembered = _Remembered(home / "checked-arguments.json")
    versions = {name: installed(name) for name in _SHAPES}
    base = config.decode("utf-8", "replace") if config else None
    stages = recipe.model_dump(mode="json")["stages"]
    digest = digest_of({"stages": stages, "seed": recipe.seed, "base": base, "by": versions})
    if digest in remembered:
        return _NOTHING, unchecked
    announce("Checking the training arguments with TRL and PEFT; this takes some seconds.")
    found = _ask_the_libraries(recipe, base)
    if found is None:
        return _NOTHING, [*unchecked, "the training arguments: TRL or PEFT cannot be imported; see `hubkit doctor`"]
    if found == _NOTHING:
        remembered.add(digest)
    return found, unchecked


def _ask_the_libraries(recipe: Recipe, base: str | None) -> Checked | None:
    """What the child process finds; None when it could not do its work."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    asked = {"recipe": recipe.model_dump_json(), "base": base}
    try:
        answer = ask_module("hubkit.pipeline.recipe_checks", asked, timeout=_SECONDS, environment=offline)
    except JobFailed:
        return None
    mistakes = tuple(Mistake(tuple(item["path"]), item["problem"]) for item in answer["mistakes"])
    return Checked(mistakes, (), tuple(answer["warnings"]), tuple(answer["machine"]))


@dataclass(frozen=True)
class _Remembered:
    """The digests of what was checked and had no mistake: the newest hundred, in one file."""

    path: Path

    def _digests(self) -> list[str]:
        with contextlib.suppress(OSError, ValueError):
            if isinstance(known := read_json(self.path), list):
                return [item for item in known if isinstance(item, str)]
        return []

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests()

    def add(self, digest: str) -> None:
        with contextlib.suppress(OSError):  # a home that cannot be written: checked again next time
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, [*self._digests(), digest][-_REMEMBERED:])


def _clause(sentence: str) -> str:
    """``sentence`` as what follows a key and a colon."""
    return f"{sentence[0].lower()}{sentence[1:].strip().removesuffix('.')}"


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The child: the mistakes of a recipe, as plain values."""
    recipe, base = Recipe.model_validate_json(asked["recipe"]), asked["base"]
    config = base.encode() if base else None
    findings = list(argument_findings(recipe, config))
    mistakes = [*_base_mistakes(config), *_mistakes_in(findings)]
    return {
        "mistakes": [{"path": item.path, "problem": item.problem} for item in mistakes],
        "warnings": [item.message for item in findings if item.level == "warning"],
        "machine": [item.message for item in findings if item.level == "error" and item.exit_code == _FAILED],
    }


def _base_mistakes(config: bytes | None) -> Iterator[Mistake]:
    """Why no release can train the base of this config.json."""
    from hubkit.models import meta

    try:
        facts = meta.facts_of(config) if config else None
    except RefusedError as error:
        yield Mistake(("base",), _clause(error.message))
    except HubkitError:
        return
    else:
        if facts is not None and facts.quantization:
            yield Mistake(("base",), f"the base's own files are quantized ({facts.quantization})")


def argument_findings(recipe: Recipe, config: bytes | None = None) -> Iterator[Finding]:
    """What TRL and PEFT, and this machine, make of the training stages of ``recipe``. Imports both.

    With the base's config.json also what they make of its adapters.
    """
    from hubkit.training import fit
    from hubkit.training.contract import Settings

    for name, stage in recipe.stages.items():
        if (uses := stage.uses or name) in METHODS:
            found = list(_findings(recipe, name))
            yield from found
            if config is not None and not any(item.level == "error" for item in found):
                method: Method = "dpo" if uses == "dpo" else "sft"
                yield from fit.findings(Settings.of(recipe, Scope(Path(), training=name)), method, config)


def argument_mistakes(recipe: Recipe) -> Iterator[Mistake]:
    """What TRL and PEFT do not accept of the training stages of ``recipe``. Imports both."""
    return _mistakes_in(argument_findings(recipe))


def _mistakes_in(findings: Iterable[Finding], exit_code: int = _MISTAKE) -> Iterator[Mistake]:
    """The mistakes among ``findings``: those that begin with a key of a stage (``stages.dpo.args.beta: ...``).

    With ``exit_code`` 1 what this machine lacks, which is no mistake of the recipe.
    """
    for finding in findings:
        where, _, problem = finding.message.partition(": ")
        if finding.level == "error" and finding.exit_code == exit_code and where.startswith("stages."):
            yield Mistake(tuple(where.split(".")), problem.removesuffix("."))


def _findings(recipe: Recipe, name: str) -> Iterable[Finding]:
    """The check of the training stage ``name``. Those of TRL's stages read their part of the recipe alone."""
    stage = find_stage(recipe.stages[name].uses or name)
    settings = stage.Settings.of(recipe, Scope(Path(), training=name))
    return stage.check(CheckContext(settings, Target("", Path())))


if __name__ == "__main__":
    compile_late()
    answer_question(_answer)
