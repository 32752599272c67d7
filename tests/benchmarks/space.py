"""What the app of a Space costs: ready after start, time to first token, memory. Run by `make bench`.

    python tests/benchmarks/space.py [--layers 12] [--hidden 2048] [--rounds 3] [--app FOLDER] [--out FILE]

The base is synthetic: random weights in bfloat16, 1.1 GB by default, and the variants are LoRA adapters on it. Each
round starts the app anew with one variant and with two, in turn, and asks it as any program would, with gradio_client.
It writes docs/bench-space.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from hubkit.core.numbers import size
from hubkit.core.processes.ports import free_port
from hubkit.publishing.spaces import building

ROOT = Path(__file__).parents[2]
AIM = 1.2
"""The aim: memory of the app with two variants, to that with one."""
TOKENS = 16
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROMPT = "What is the capital of Spain?"


@dataclass
class Figures:
    """Of each round: seconds until the page answers, until the models are ready, until the first text of an answer;
    tokens a second; the peak of the memory in bytes."""

    page: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def make_base(folder: Path, layers: int, hidden: int) -> int:
    """A random Llama in bfloat16 with a byte-level tokenizer; its size in bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=261,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        max_position_embeddings=4096,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    save_tokenizer(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def save_tokenizer(folder: Path) -> None:
    """Bytes, and the tokens of ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=letters, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def make_variant(base: Path, folder: Path, seed: int) -> None:
    """A random adapter of rank 16 on all linear layers, in ``folder/adapter``, as a release publishes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    config = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder / "adapter", save_embedding_layers=False)
    save_tokenizer(folder)


def app_with(folder: Path, app: Path | None, base: Path, variants: Sequence[Path]) -> Path:
    """The app in ``folder``, with a release.json of the first few ``variants``."""
    building.copy_app(folder)
    if app is not None:
        shutil.copytree(app, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    told = {
        "title": "Synthetic",
        "repo": str(variants[0]),
        "base": {"repo": str(base)},
        "dtype": "bfloat16",
        "max_new_tokens": TOKENS,
        "revisions": [{"name": path.name, "title": path.name, "repo": str(path)} for path in variants],
        "prompts": [PROMPT],
    }
    (folder / "release.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


@contextmanager
def running(folder: Path) -> Iterator[tuple[psutil.Process, str, Path]]:
    """The app as a process, with its address and its log."""
    port, log = free_port(), folder.with_suffix(".log")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRADIO_"))}
    more = {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    with log.open("wb") as output:
        process = psutil.Popen(
            [sys.executable, "app.py"], cwd=folder, env={**kept, **more}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield process, f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()
        process.wait(30)


def until(condition: Callable[[], bool], process: psutil.Process, log: Path, seconds: float = 600) -> None:
    """Return when ``condition`` holds; end the benchmark when the app has ended or takes longer."""
    end = time.perf_counter() + seconds
    while not condition():
        if process.poll() is not None or time.perf_counter() > end:
            raise SystemExit(f"The app ended or took too long:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether the page is there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def peak_memory(process: psutil.Process) -> Iterator[list[float]]:
    """The highest PSS so far, in bytes, of the process and its children."""
    highest, done = [0.0], Event()

    def watch() -> None:
        while not done.wait(0.1):
            try:
                all_of_them = [process, *process.children(recursive=True)]
                highest[0] = max(highest[0], sum(item.memory_full_info().pss for item in all_of_them))
            except psutil.Error:
                pass

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def measure(folder: Path, names: Sequence[str], figures: Figures) -> None:
    """Start the app once and ask every variant."""
    from gradio_client import Client

    began = time.perf_counter()
    with running(folder) as (process, url, log), peak_memory(process) as highest:
        until(lambda: answers(url), process, log)
        figures.page.append(time.perf_counter() - began)
        client = Client(url, verbose=False)
        until(lambda: is_ready(client.predict(api_name="/status")), process, log)
        figures.ready.append(time.perf_counter() - began)
        for name in names:
            client.predict(PROMPT, name, limit=1, api_name="/answer")  # what happens once is not measured
        for name in names:
            asked = time.perf_counter()
            first, last = None, {}
            for answer in client.submit(PROMPT, name, limit=TOKENS, api_name="/answer"):
                first, last = first or time.perf_counter() - asked, answer
            if first is None:
                raise SystemExit(f"No answer of {name}:\n{log.read_text(errors='replace')[-3000:]}")
            figures.first.append(first)
            figures.rate.append(last["tokens"] / max(last["seconds"], 1e-9))
        figures.memory.append(highest[0])


def is_ready(status: dict[str, Any]) -> bool:
    """Whether the models are loaded; ends the benchmark when they never will be."""
    if status["state"] == "failed":
        raise SystemExit(status["message"])
    return bool(status["state"] == "ready")


def document(weights: int, one: Figures, two: Figures) -> str:
    """The figures as docs/bench-space.md."""

    def row(name: str, values: Callable[[Figures], list[float]], write: Callable[[float], str]) -> str:
        cells = (f"{write(statistics.median(values(item)))} | {write(max(values(item)))}" for item in (one, two))
        return f"| {name} | {' | '.join(cells)} |"

    ratio = statistics.median(two.memory) / statistics.median(one.memory)
    machine = f"{os.cpu_count()} cores ({platform.machine()}, CPU only)"
    return "\n".join([
        "# What the app of a Space costs",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}, on {machine}: the app of `hubkit space` with a"
        f" synthetic base of {size(weights)} in bfloat16 and LoRA adapters of rank 16 on all its linear layers, started"
        f" {len(one.page)} times each with one variant and with two, and asked by `gradio_client`.",
        "",
        "| figure | one variant, median | highest | two variants, median | highest |",
        "|---|---:|---:|---:|---:|",
        row("the page answers after", lambda item: item.page, lambda value: f"{value:.1f} s"),
        row("the models are ready after", lambda item: item.ready, lambda value: f"{value:.1f} s"),
        row("time to first token", lambda item: item.first, lambda value: f"{value:.2f} s"),
        row("tokens per second", lambda item: item.rate, lambda value: f"{value:.1f}"),
        row("peak memory (PSS)", lambda item: item.memory, size),
        "",
        f"Two variants take {ratio:.2f} times the memory of one (aim: at most {AIM}).",
        "",
    ])  # fmt: skip


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--app", type=Path, help="a folder with another version of the app")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench-space.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as folder:
        home = Path(folder)
        weights = make_base(home / "base", options.layers, options.hidden)
        variants = [home / "main", home / "dpo-v0"]
        for seed, variant in enumerate(variants):
            make_variant(home / "base", variant, seed)
        figures = {count: Figures() for count in (1, 2)}
        for count in figures:
            app_with(home / f"app-{count}", options.app, home / "base", variants[:count])
        for _ in range(options.rounds):
            for count, found in figures.items():
                measure(home / f"app-{count}", [path.name for path in variants[:count]], found)
    text = document(weights, figures[1], figures[2])
    options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
