"""What preparing data costs, beside what TRL needs for the same rows, and what the first step of a training costs then.

Run by `make bench`; writes docs/bench-data.md.

Synthetic rows in an Arrow file, which `datasets` maps into memory as it does the files of a Hub. Each figure is of a
process of its own: the data step's own code (read, check, spool, choose, write, tokenize, look at the ends of the
answers), and TRL's preparation of the same rows. Memory is what the process and its children hold for themselves
(RssAnon, sampled): pages of mapped files are the kernel's to take back.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

from held_memory import Memory  # noqa: E402

SIZES = (10_000, 100_000, 1_000_000)
TRL_ROWS = 3_000
FLAT = 1.5
"""The aim: how much more memory the most rows may take than the fewest."""
_WORDS = 4000
_BATCH = 1000
RECIPE = """
repo: me/my-model
visibility: public
license: apache-2.0
base: {repo: them/base}
data: {mine: [{repo: them/rows}]}
stages: {sft: {data: mine}}
variants: {main: {stage: sft}}
evaluate: {suites: []}
gates: {stop_rate: {prompts_from: mine, prompts: 256}}
card: {title: T, summary: S.}
"""


def write_rows(path: Path, count: int) -> None:
    """``count`` rows of an instruction set, of about 16 words each, to the Arrow stream ``path``."""
    import pyarrow as pa

    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(_WORDS)]
    schema = pa.schema([("instruction", pa.string()), ("output", pa.string())])

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(least, most)))

    with pa.ipc.new_stream(path, schema) as writer:
        for start in range(0, count, _BATCH):
            rows = range(start, min(start + _BATCH, count))
            columns = [[f"{number} {text(4, 8)}" for number in rows], [text(6, 14) for _ in rows]]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def measured(work: Callable[[], int]) -> dict[str, Any]:
    """What ``work``, which returns a number of rows, takes: seconds, seconds of the processor, peak of memory."""
    memory = Memory()
    memory.start()
    wall, cpu = time.perf_counter(), _processor()
    rows = work()
    seconds = time.perf_counter() - wall
    return {"rows": rows, "seconds": seconds, "processor": _processor() - cpu, "peak": memory.end()}


def _processor() -> float:
    had = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in had)


def _tokenizer() -> Any:
    from architectures import ARCHITECTURES, make_tokenizer

    return make_tokenizer(ARCHITECTURES["smollm"])


def prepared_by_hubkit(rows: Path, folder: Path) -> dict[str, Any]:
    """The data step's own work on the rows in the file ``rows``."""
    from datasets import Dataset

    from hubkit.models.chat.eos import find
    from hubkit.recipe.loading import parse_recipe
    from hubkit.training.data.loading import Loaded, _each
    from hubkit.training.data.preparing import DataSettings, prepare

    tokenizer, source = _tokenizer(), Dataset.from_file(str(rows))
    end, settings = find(tokenizer), DataSettings.of(parse_recipe(RECIPE))

    def work() -> int:
        made = prepare(
            settings,
            lambda _: Loaded("c" * 40, tuple(source.column_names), _each(source), None),
            tokenizer,
            end,
            lambda _: (1024, "keep_start"),
            lambda words, share: None,
            folder / "out",
            folder / "scratch",
        )
        assert made.sets["mine"] + len(made.prompts) == source.num_rows, made.sources
        return int(source.num_rows)

    return measured(work)


def prepared_by_trl(rows: Path, folder: Path) -> dict[str, Any]:
    """What SFTTrainer does with the same rows as conversations before it can train: render, tokenize, label, cut."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = _tokenizer()
    source = Dataset.from_file(str(rows)).select(range(TRL_ROWS))
    conversations = [
        {
            "prompt": [{"role": "user", "content": row["instruction"]}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in source
    ]
    widths = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **widths))

    def trainer(dataset: Any) -> Any:
        args = SFTConfig(
            output_dir=str(folder / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=1024,
            report_to="none",
        )  # fmt: skip
        return SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)

    trainer(Dataset.from_list(conversations[:2]))  # what is imported and built once does not count
    return measured(lambda: len(trainer(Dataset.from_list(conversations)).train_dataset))


def trained_one_step(method: str, folder: Path) -> dict[str, Any]:
    """The training stage of ``method`` on the run in ``folder`` (:mod:`many_rows`), up to the end of its first step."""
    from many_rows import first_step

    took: dict[str, float] = {}

    def work() -> int:
        took.update(first_step(folder, method))
        return int(took["rows"])

    figures = measured(work)
    return {**figures, "seconds": took["seconds"]}


WAYS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "hubkit": prepared_by_hubkit,
    "trl": prepared_by_trl,
    "dpo": lambda rows, folder: trained_one_step("dpo", rows),
    "sft": lambda rows, folder: trained_one_step("sft", rows),
}


def apart(way: str, rows: Path, folder: Path) -> dict[str, Any]:
    """The figures of ``way``, measured in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, "--rows", str(rows), "--folder", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(found: dict[int, dict[str, Any]], trl: dict[str, Any]) -> tuple[str, bool]:
    """The figures as Markdown, and whether the aims are reached."""
    least, most = found[min(found)], found[max(found)]
    growth = most["peak"] / least["peak"]
    faster = (most["rows"] / most["processor"]) / (trl["rows"] / trl["processor"])
    lines = [
        "# What preparing data costs",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}, on {os.cpu_count()} cores ({platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f} at the end). Synthetic rows of about 16 words with a tokenizer of few merges, "
        "so that a row has about 170 tokens. Each line is a process of its own. Memory is what the process and its "
        "children hold for themselves; pages of mapped files do not count.",
        "",
        "| way | rows | by the clock | rows/s | processor | rows per second of a core | peak of memory |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_row("the data step", figures) for figures in found.values()),
        _row("TRL's preparation alone", trl),
        "",
        "The data step reads, checks, spools, chooses, writes and tokenizes the rows and looks at the ends of their "
        "answers; TRL is then handed the tokens and does none of this again. Of TRL's trainer only the preparation of "
        "its rows is measured, with the rows in memory.",
        "",
        f"{most['rows']:,} rows take {growth:.2f} times the memory of {least['rows']:,} (aim: less than {FLAT}): "
        f"{max(0.0, most['peak'] - least['peak']) / (most['rows'] - least['rows']):.0f} bytes for each further row. "
        f"A second of a core prepares {faster:.1f} times the rows that TRL prepares in it.",
    ]
    return "\n".join(lines) + "\n", growth < FLAT


def first_steps(folder: Path, sizes: Sequence[int]) -> tuple[str, bool]:
    """The first step of both trainings at each of ``sizes``, as Markdown, and whether the memory stays flat."""
    from many_rows import case_of

    lines, flat = [*FIRST_STEP], True
    for method in ("sft", "dpo"):
        peaks = []
        for size in sizes:
            place = folder / f"{method}-{size}"
            place.mkdir()
            case_of(place, method, size)
            figures = apart(method, place, folder / "work")
            lines.append(
                f"| {method.upper()} | {size:,} | {figures['seconds']:.1f} s | {figures['processor']:.1f} s | "
                f"{figures['peak'] / 1e6:,.0f} MB |"
            )
            print(lines[-1], flush=True)
            peaks.append(figures["peak"])
            shutil.rmtree(place)
        flat = flat and peaks[-1] < FLAT * peaks[0]
    return "\n".join(lines) + "\n", flat


FIRST_STEP = """
## The first step

What a training needs until its first step is done, the libraries imported: load the model (under 0.6 M parameters), map
the rows that the data step tokenized, check the batches, shuffle, and train one batch of 4. The rows are 256 different
ones, again and again: only their number matters here. The processor's seconds have the imports, too.

| stage | rows | until the first step is done | processor | peak of memory |
|---|---:|---:|---:|---:|
""".strip("\n").splitlines()


def _row(name: str, figures: dict[str, Any]) -> str:
    rows, seconds, processor = figures["rows"], figures["seconds"], figures["processor"]
    return (
        f"| {name} | {rows:,} | {seconds:.1f} s | {rows / seconds:,.0f} | {processor:.1f} s | {rows / processor:,.0f}"
        f" | {figures['peak'] / 1e6:,.0f} MB |"
    )


def main() -> None:
    """Measure, print and write docs/bench-data.md; ends with 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--first-steps", action="store_true", help="measure the first steps alone, and print them")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    if chosen.way:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            figures = WAYS[chosen.way](chosen.rows, chosen.folder)
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as name:
        folder = Path(name)
        steps, flat = first_steps(folder, chosen.sizes)
        if chosen.first_steps:
            return
        found = {}
        for size in chosen.sizes:
            write_rows(folder / "rows.arrow", size)
            found[size] = apart("hubkit", folder / "rows.arrow", folder / "work")
            print(_row("the data step", found[size]), flush=True)
        trl = apart("trl", folder / "rows.arrow", folder / "work")
    text, reached = report(found, trl)
    text, reached = f"{text}\n{steps}", reached and flat
    (ROOT / "docs" / "bench-data.md").write_text(text, encoding="utf-8")
    print(text)
    if not reached:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
