"""What lm-evaluation-harness is called with: progress, its errors in one sentence, its results as plain values.

Running it is the business of the stage ``evaluate``; lm_eval is imported when it is about to run.
"""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubkit.core import numbers
from hubkit.core.errors import RemoteError, UsageError
from hubkit.core.libraries import installed
from hubkit.evals.suites import Suite, harness_tasks
from hubkit.evals.taskfiles import copy_tasks
from hubkit.hub.errors import explain

if TYPE_CHECKING:
    from hubkit.recipe.models import Evaluate
    from hubkit.recipe.stage import Report


_CPU_BATCH = 8
"""Sequences per batch on a CPU, where "auto" would try 64 of the model's full length, and a lack of memory ends it."""


def batch_size(asked: int | str, device: str) -> int | str:
    """The batch size that lm-eval is given: "auto" stays so on a GPU, where lm-eval halves it until it fits."""
    return _CPU_BATCH if asked == "auto" and not device.startswith("cuda") else asked


@contextmanager
def no_inventory() -> Iterator[None]:
    """Keep lm-eval from listing the whole machine after each suite: it takes a second, and nothing of it is kept.

    Of what it lists, only the two versions stay in the results.
    """
    from lm_eval import evaluator

    def versions(results: dict[str, Any]) -> None:
        results.update({f"{name}_version": found for name in ("lm_eval", "transformers") if (found := installed(name))})

    kept = evaluator.add_env_info
    evaluator.add_env_info = versions
    try:
        yield
    finally:
        evaluator.add_env_info = kept


@contextmanager
def tasks_translated(endpoint: str, names: list[str]) -> Iterator[None]:
    """Say in one sentence why the tasks ``names`` could not be run.

    RemoteError when the Hub or the network is away, whatever the Hub itself says, else UsageError.
    """
    try:
        yield
    except (KeyError, ValueError, OSError, ImportError) as error:
        if (found := explain(error, endpoint)) is not None:
            raise found from error
        message = f"lm-eval could not run {', '.join(names)}: {type(error).__name__}: {error}."
        if isinstance(error, ConnectionError):
            raise RemoteError(message, hint="Run the same command again when the network is back.") from error
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise UsageError(message, hint="Fix the task's file, or the name of its data set.") from error


@contextmanager
def watched(model: Any, report: Report) -> Iterator[None]:
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
                report(f"{numbers.count(self.done)} of {numbers.counted(self.expected, 'request')}", min(share, 1.0))

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


def run_suite(
    model: Any,
    suite: Suite,
    asked: Evaluate,
    *,
    turns: bool,
    include: Path | None,
    scratch: Path,
    endpoint: str,
    report: Report,
) -> dict[str, Any] | None:
    """What lm-eval returns for ``suite`` on ``model``, an lm_eval LM; None in all processes but the main one.

    ``turns``: the examples in the prompt are turns of their own. ``include`` are the recipe's own task files, of which
    a copy is made below ``scratch``. HubkitError as in :func:`tasks_translated`.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if suite.own:
        assert include is not None
        folders = [copy_tasks(include, scratch / "tasks")]
    else:
        folders = [harness_tasks() / folder for folder in suite.folders]
    with watched(model, report), tasks_translated(endpoint, list(suite.tasks)), no_inventory():
        raw: dict[str, Any] | None = simple_evaluate(
            model=model,
            tasks=list(suite.tasks),
            num_fewshot=None if suite.own_shots else asked.num_fewshot,
            task_manager=TaskManager(include_path=folders, include_defaults=False),
            limit=asked.limit,
            apply_chat_template=asked.apply_chat_template,
            fewshot_as_multiturn=turns,
            log_samples=True,
        )
    return raw


def hidden_paths(scratch: Path, include: Path | None) -> dict[str, str]:
    """Paths of this machine that lm-eval's results may hold, with what is shown for each."""
    own = str(scratch.absolute())
    hidden = {own: ".", glob.escape(own): ".", str(Path.home()): "~"}  # lm-eval writes '[' as a pattern does
    return hidden if include is None else {str(include): ".", **hidden}


def plain(raw: Mapping[str, Any], hidden: Mapping[str, str]) -> dict[str, Any]:
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
