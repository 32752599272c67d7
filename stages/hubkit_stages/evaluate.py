"""Benchmark a model with lm-evaluation-harness, as a library: the base by its commit, a variant by its merged weights.

    evaluate:
      suites: [agieval, gpt4all]        # or own task files in the folder `include`
      apply_chat_template: true

Makes ``results.json`` (the typed results of ``hubkit.evals``) and ``raw.json`` (what the harness said, without the
samples). The content of the folder ``include`` is in this step's settings, so a changed question changes the key.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.answers import explain
from hubkit.errors import HubkitError, RemoteError, UsageError
from hubkit.evals.figures import four
from hubkit.evals.readers import read_lm_eval
from hubkit.evals.results import RAW_FILE, RESULTS_FILE, Settings, Subject
from hubkit.evals.suites import Suite, harness_tasks, resolve
from hubkit.evals.taskfiles import copy_tasks
from hubkit.files import write_json
from hubkit.run import Finding
from hubkit.wire import translated

if TYPE_CHECKING:
    from hubkit.run import Artifact, Context, Report

VERSION = 1
SHAPED_BY = ("lm_eval", "torch", "transformers", "tokenizers", "datasets")
BACKEND = "hf"


def check(ctx: Context) -> Iterable[Finding]:
    """Every suite must be known and own task files whole; a limit is said aloud. Imports nothing heavy."""
    try:
        harness_tasks()
        resolve(ctx.recipe.evaluate.suites, _include(ctx))
    except HubkitError as error:
        yield Finding("error", error.message, error.hint, error.exit_code)
    limit = ctx.recipe.evaluate.limit
    if limit is not None:
        yield Finding(
            "note",
            f"Benchmarks use {limit:,} examples of each task; the card will say that this is a rehearsal.",
        )


def run(ctx: Context) -> Artifact:
    """Measure every suite of the recipe; shows the average of the suites."""
    asked = ctx.recipe.evaluate
    suites = resolve(asked.suites, _include(ctx))
    subject, source, dtype = _subject(ctx)
    ctx.report("loading the model", 0.0)
    started = time.monotonic()
    raw, device = _measure(ctx, suites, source, subject, dtype)
    results = read_lm_eval(
        raw,
        suites,
        subject=subject,
        settings=Settings(
            backend=BACKEND,
            apply_chat_template=asked.apply_chat_template,
            limit=asked.limit,
            dtype=dtype,
            batch_size=asked.batch_size,
            device=device,
        ),
        libraries={name: version(name) for name in SHAPED_BY},
        seconds=round(time.monotonic() - started, 3),
    )
    results.write(ctx.out / RESULTS_FILE)
    write_json(ctx.out / RAW_FILE, raw)
    missing = [name for suite in results.suites.values() for name, task in suite.tasks.items() if task is None]
    missing += [name for suite in results.suites.values() for name in suite.average.missing if name not in missing]
    if missing:
        raise HubkitError(
            f"lm-eval gave no usable number for {', '.join(missing)}.",
            hint="The step's log says what went wrong with these tasks.",
        )
    average = results.average.value or 0.0
    figure = f"average {four(average)}" + (f" on {asked.limit:,} examples a task" if asked.limit else "")
    return ctx.artifact(figure=figure, average=average, rehearsal=results.rehearsal)


def _include(ctx: Context) -> Path | None:
    include = ctx.recipe.evaluate.include
    return ctx.recipe_folder / include if include else None


def _subject(ctx: Context) -> tuple[Subject, str, str]:
    """What is measured, where it is loaded from (a repo id or a folder), and its dtype.

    The base is measured in the dtype of the merged weights, whatever its files hold: the columns are to be compared.
    """
    base = ctx.input("base").json("base.json")
    if ctx.variant_name is None:
        subject = Subject(repo=base["repo"], commit=base["commit"], form="base")
        return subject, base["repo"], ctx.settings["base"]["dtype"]
    merge = ctx.input("merge")
    subject = Subject(repo=base["repo"], commit=base["commit"], form="merged")
    return subject, str(merge.path / "model"), merge.json("merge.json")["dtype"]


def _measure(
    ctx: Context, suites: tuple[Suite, ...], source: str, subject: Subject, dtype: str
) -> tuple[dict[str, Any], str]:
    """lm-eval's results as plain JSON values, without samples and without paths of this machine; and the device."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    folders = [harness_tasks() / folder for suite in suites for folder in suite.folders]
    include = _include(ctx)
    if include is not None:
        folders.append(copy_tasks(include, ctx.scratch / "tasks"))
    revision = subject.commit if subject.form == "base" else None
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    with translated(ctx.target.endpoint, subject.repo, revision):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main")
    template = ctx.input("base").path / "chat_template.jinja"
    if ctx.recipe.evaluate.apply_chat_template and template.is_file():
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    names = list(dict.fromkeys(name for suite in suites for name in suite.tasks))
    with translated(ctx.target.endpoint, subject.repo, revision):
        model = HFLM(
            pretrained=source,
            revision=revision or "main",
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            batch_size=ctx.recipe.evaluate.batch_size,
        )
    try:
        with _watched(model, ctx.report), _tasks_translated(ctx.target.endpoint, names):
            raw = simple_evaluate(
                model=model,
                tasks=names,
                task_manager=TaskManager(include_path=folders, include_defaults=False),
                limit=ctx.recipe.evaluate.limit,
                apply_chat_template=ctx.recipe.evaluate.apply_chat_template,
                log_samples=False,
            )
    finally:
        del model
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    if raw is None:
        raise HubkitError("lm-eval returned no results in this process.", hint="Run it in the first process.")
    hidden = {str(ctx.run.path.absolute()): ".", str(ctx.recipe_folder.absolute()): ".", str(Path.home()): "~"}
    if subject.form == "merged":
        hidden = {source: "merged", **hidden}
    return _plain(raw, hidden), device


@contextmanager
def _tasks_translated(endpoint: str, names: list[str]) -> Iterator[None]:
    """Say in one sentence why the tasks ``names`` could not be run.

    RemoteError when the Hub or the network is away, whatever the Hub itself says, else UsageError.
    """
    try:
        yield
    except (KeyError, ValueError, OSError) as error:
        if (found := explain(error, endpoint)) is not None:
            raise found from error
        said = f"lm-eval could not run {', '.join(names)}: {type(error).__name__}: {error}."
        if isinstance(error, ConnectionError):
            raise RemoteError(said, hint="Run the same command again when the network is back.") from error
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise UsageError(said, hint="Mend the task's file, or the name of its data set.") from error


@contextmanager
def _watched(model: Any, report: Report) -> Iterator[None]:
    """Tell ``report`` how many requests of ``model`` (an lm_eval LM) are answered, at each whole per cent.

    Afterwards the model is as it was: what hangs on it holds it in turn, and would keep its memory. Uses lm-eval's own
    door for this: the cache hook is called once for every finished request.
    """

    class Count:
        expected = 0
        done = 0

        def add_partial(self, attr: str, request: Any, answer: Any) -> None:
            """Count one finished request."""
            before, self.done = self.done, self.done + 1
            share = self.done / max(self.expected, 1)
            if math.floor(share * 100) > math.floor(before / max(self.expected, 1) * 100):
                report(f"{self.done:,} of {self.expected:,} requests", min(share, 1.0))

    count = Count()

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(requests: list[Any], *args: Any, **kwargs: Any) -> Any:
            count.expected += len(requests)
            return method(requests, *args, **kwargs)

        return call

    names, before = ("loglikelihood", "loglikelihood_rolling", "generate_until"), model.cache_hook
    model.set_cache_hook(count)
    for name in names:
        setattr(model, name, counted(getattr(model, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)
        model.set_cache_hook(before)


def _plain(raw: dict[str, Any], hidden: dict[str, str]) -> dict[str, Any]:
    """``raw`` as JSON values without NaN, environment dump and the paths in ``hidden``."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set):
            return [clean(item) for item in value]
        if isinstance(value, bool | int | None):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if hasattr(value, "item"):  # NumPy scalars
            return clean(value.item())
        text = str(value)
        for path, shown in hidden.items():
            text = text.replace(path, shown)
        return text

    kept = {name: value for name, value in raw.items() if name not in {"samples", "pretty_env_info", "config"}}
    config = {name: value for name, value in raw.get("config", {}).items() if name != "model_args"}
    plain: dict[str, Any] = json.loads(json.dumps(clean({**kept, "config": config})))
    return plain
