"""Which tasks a suite has: the four classic suites in today's task names, the Open LLM Leaderboard's, any installed
task, and own task files.

lm-eval's index takes seconds to build, so tasks are found in its files, and only their folders are given to it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from hubkit.core.errors import UsageError
from hubkit.evals import leaderboard
from hubkit.evals.taskfiles import own_tasks


@dataclass(frozen=True)
class Suite:
    """A named list of tasks.

    ``tasks`` are lm-eval's names in order. ``rule`` is a key of ``averages.RULES``. ``folders`` are the folders below
    lm-eval's ``tasks`` that define them; none for own tasks. ``renamed`` gives, by task, metrics that have a better
    known name (TruthfulQA's mc2 is reported as acc). ``own_shots``: the examples in the prompt are the task files' own
    and are not to be changed. ``modules`` must be installed, and are by ``lm_eval[extras]``.
    """

    name: str
    title: str
    rule: str
    tasks: tuple[str, ...]
    folders: tuple[str, ...] = ()
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    own_shots: bool = False
    modules: tuple[str, ...] = ()
    extras: str = ""

    def lacking(self) -> tuple[str, ...]:
        """The modules that its tasks import and that are not installed; looked for without importing them."""
        return tuple(name for name in self.modules if find_spec(name) is None)

    @property
    def own(self) -> bool:
        """Whether its tasks come from the recipe's own files."""
        return not self.folders


_AGIEVAL = ("aqua_rat", "logiqa_en", "lsat_ar", "lsat_lr", "lsat_rc", "sat_en", "sat_en_without_passage", "sat_math")
_BIGBENCH = (
    "causal_judgment",
    "date_understanding",
    "disambiguation_qa",
    "geometric_shapes",
    "logical_deduction",
    "movie_recommendation",
    "navigate",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects",
)
SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "agieval",
            "AGIEval",
            "acc_norm else acc",
            tuple(f"agieval_{name}" for name in _AGIEVAL),
            ("agieval",),
        ),
        # The classic 18 tasks counted three, five and seven objects apart; today's pool them.
        Suite(
            "bigbench",
            "BigBench",
            "acc",
            tuple(f"bigbench_{name}_multiple_choice" for name in _BIGBENCH),
            ("bigbench/multiple_choice",),
        ),
        Suite(
            "gpt4all",
            "GPT4All",
            "acc_norm else acc",
            ("arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande"),
            ("arc", "super_glue/boolq", "hellaswag", "openbookqa", "piqa", "winogrande"),
        ),
        Suite(
            "truthfulqa",
            "TruthfulQA",
            "mc2",
            ("truthfulqa_mc1", "truthfulqa_mc2"),
            ("truthfulqa",),
            {"truthfulqa_mc1": {"acc": "mc1"}, "truthfulqa_mc2": {"acc": "mc2"}},
        ),
        Suite(
            "openllm",
            "Open LLM Leaderboard",
            "leaderboard",
            leaderboard.TASKS,
            tuple(f"leaderboard/{name}" for name in ("ifeval", "bbh_mc", "math", "gpqa", "musr", "mmlu_pro")),
            own_shots=True,
            modules=("langdetect", "immutabledict", "nltk", "math_verify", "antlr4"),
            extras="math,ifeval",
        ),
    )
}


def harness_tasks() -> Path:
    """The folder of the installed lm-eval's task files, found without importing it.

    Raises UsageError when lm-eval is not installed.
    """
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UsageError(
            "The benchmarks need lm-evaluation-harness, which is not installed.",
            hint="pip install 'hubkit[eval]'",
        )
    return Path(spec.origin).parent / "tasks"


def resolve(names: Iterable[str], include: Path | None = None) -> tuple[Suite, ...]:
    """The suites called ``names``: own tasks in the folder ``include`` first, then named suites, then lm-eval's tasks.

    Raises UsageError that names the first one which nobody knows.
    """
    own = own_tasks(include) if include is not None else {}
    found = []
    for name in names:
        if name in own:
            found.append(Suite(name, own[name].title, "own", own[name].tasks))
        elif name in SUITES:
            found.append(SUITES[name])
        else:
            found.append(_single(name, own))
    return tuple(found)


def _single(name: str, own: Mapping[str, object]) -> Suite:
    root = harness_tasks()
    wanted = re.compile(rb"^task:[ \t]*[\"']?" + re.escape(name.encode()) + rb"[\"']?[ \t]*$", re.MULTILINE)
    for path in sorted(root.rglob("*.yaml")):
        if wanted.search(path.read_bytes()):
            return Suite(name, name, "own", (name,), (path.parent.relative_to(root).as_posix(),))
    known = [*own, *SUITES]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    raise UsageError(
        f"Unknown suite {name!r}.",
        hint=f"Did you mean {close[0]!r}?"
        if close
        else f"Available: {', '.join(known)}, single tasks of lm-eval, and task files in evaluate.include.",
    )
