"""Cost of publishing a bundle with hubkit beside `hf upload` of the same folder. Run by `make bench`; writes
docs/bench-publish.md.

The weights are random and already merged: shards with known digests, which the merge has found finite and fit for
config.json (that check, 5 s of CPU and more on a busy machine, is the merge's and not counted here). Each upload meets
a fresh embedded Hub, the two take turns, and both are measured as processes from start to end: what `hubkit release`
does in one step (screening, signing, upload, one commit, the comparison with what the Hub then lists) is done here by a
process of its own, which also pays for importing the libraries.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

import signatures  # noqa: E402
from kept import kept, perform, sample  # noqa: E402
from releases import REPO, Folder, Release, card, faults, requests  # noqa: E402

from hubkit.core.files import Digests  # noqa: E402
from hubkit.core.target import Target  # noqa: E402
from hubkit.models.merging.shards import Planned, ShardWriter, plan, write_index  # noqa: E402
from hubkit.pipeline.runs import Run  # noqa: E402
from hubkit.publishing.bundle import build  # noqa: E402
from hubkit.recipe.stage import StageResult  # noqa: E402
from hubkit.server import process  # noqa: E402
from hubkit_stages import publish  # noqa: E402

HF = Path(sys.executable).with_name("hf")
GIB = 2**30
CARD_LIMIT = 100_000
"""Bytes that may be sent when only the card changed."""
STEPS = ("base", "data", "train[sft]", "merge[main]", "card[main]")
BLOCK = 2**24


# --- the bundle


def architecture(size: int) -> tuple[dict[str, Any], Planned]:
    """A Mistral in bfloat16 with about ``size`` bytes: its config.json, and its tensors."""
    wide = 2048 if size >= GIB else 256
    shape = {"hidden_size": wide, "intermediate_size": 11 * wide // 4, "vocab_size": 32000}
    inner, vocabulary = shape["intermediate_size"], shape["vocab_size"]
    layer = {
        "input_layernorm": (wide,),
        "post_attention_layernorm": (wide,),
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (wide // 4, wide),
        "self_attn.v_proj": (wide // 4, wide),
        "self_attn.o_proj": (wide, wide),
        "mlp.gate_proj": (inner, wide),
        "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner),
    }
    around = {"model.embed_tokens": (vocabulary, wide), "model.norm": (wide,), "lm_head": (vocabulary, wide)}
    per_layer, rest = (sum(_bytes(item) for item in part.values()) for part in (layer, around))
    layers = max(1, round((size - rest) / per_layer))
    shapes = around | {f"model.layers.{n}.{name}": item for n in range(layers) for name, item in layer.items()}
    config = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "dtype": "bfloat16",
        "num_hidden_layers": layers,
        "num_attention_heads": wide // 64,
        "num_key_value_heads": wide // 256,
        **shape,
    }
    return config, {f"{name}.weight": ("BF16", item, _bytes(item)) for name, item in shapes.items()}


def _bytes(shape: Sequence[int]) -> int:
    count = 2
    for length in shape:
        count *= length
    return count


def make_weights(folder: Path, planned: Planned, shard_bytes: int) -> dict[str, Digests]:
    """Write finite random numbers to ``folder`` as the merge does; the digests by file name."""
    import numpy

    random, found = numpy.random.default_rng(0), {}
    shards = plan(planned, shard_bytes)
    for name, tensors in shards:
        with ShardWriter(folder / name, tensors) as writer:
            left = sum(size for _, _, size in tensors.values())
            while left:
                bits = random.integers(0, 2**16, min(left, BLOCK) // 2, dtype=numpy.uint16)
                bits &= 0xBFFF  # an exponent with a bit missing is neither NaN nor infinite
                writer.write(bits.tobytes())
                left -= bits.nbytes
        assert writer.digests is not None
        found[name] = writer.digests
    if len(shards) > 1:
        write_index(folder, shards)
    return found


def prepare(release: Release, size: int) -> dict[str, Digests]:
    """Make all that comes before publishing, with weights of ``size`` bytes in ``merge[main]``; their digests."""
    release.train()
    config, planned = architecture(size)
    ctx = release.context("merge[main]")
    (ctx.out / "model").mkdir()
    weights = make_weights(ctx.out / "model", planned, size // 4)
    for name, value in (
        ("model/config.json", config),
        ("model/tokenizer_config.json", {"chat_template": None}),
        ("model/tokenizer.json", {"model": {"vocab": {}}}),
        ("merge.json", {"dtype": "bfloat16", "finite": sorted(item.sha256 for item in weights.values()), "fits": True}),
    ):
        (ctx.out / name).write_text(json.dumps(sample(name, **value)))
    digests = {f"model/{name}": item for name, item in weights.items()}
    result = StageResult(Folder(), "made", digests=digests)
    release.made["merge[main]"] = kept(release.run.keep("merge[main]", "k", result, 0.0))
    return weights


# --- the measured process


def publish_once(folder: Path, run: Path, endpoint: str, token: str) -> None:
    """What the measured process of hubkit does; prints the seconds at which each part began."""
    began = time.monotonic()
    release = Release(folder, Target(endpoint, folder / "hf", token, embedded=True), Run(run))
    for step in STEPS:
        release.made[step] = kept(release.run.find(step))
    parts = []
    settings = signatures.signed_by(folder / "release-private.pem")
    ctx = dataclasses.replace(
        release.context("publish[main]", settings),
        report=lambda figure, _: parts.append((figure.split()[0], time.monotonic() - began)),
    )
    made = perform(publish, ctx, release.run, "publish[main]")
    parts.append(("end", time.monotonic() - began))
    ends = [at for _, at in parts[1:]]
    spent = {name: end - at for (name, at), end in zip(parts, ends, strict=False)}
    print(json.dumps({"commit": made.summary["commit"], "parts": spent}))


def measured(command: Sequence[str | Path], environment: dict[str, str], server: psutil.Process) -> dict[str, Any]:
    """Run ``command`` to its end: seconds, CPU seconds, peak PSS of its tree, bytes read, and what it prints as JSON.

    The kernel adds what ended children spent and read to their parent; both are asked for before the process is
    forgotten. Bytes read are those of ``read`` calls, whether or not the page cache held them; sockets do not count.
    """
    with tempfile.TemporaryFile("w+") as output:
        served, began = _cpu(server), time.monotonic()
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.PIPE, text=True)
        peak, root = 0, psutil.Process(child.pid)
        server_peak = 0
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak, server_peak = max(peak, _pss(root)), max(server_peak, server.memory_info().rss)
            time.sleep(0.1)
        seconds = time.monotonic() - began
        lines = Path(f"/proc/{child.pid}/io").read_text().splitlines()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said = child.stderr.read() if child.stderr else ""
        if child.returncode:
            raise SystemExit(f"{command[0]} ended with {child.returncode}: {said[-2000:]}")
        output.seek(0)
        return {
            "seconds": seconds,
            "cpu": usage.ru_utime + usage.ru_stime,
            "server_cpu": _cpu(server) - served,
            "peak": peak,
            "server_peak": server_peak,
            "read": int(dict(line.split(": ") for line in lines)["rchar"]),
            **json.loads(output.read() if command[0] == sys.executable else "{}"),
        }


def _cpu(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:4])


def _pss(root: psutil.Process) -> int:
    total = 0
    for one in (root, *root.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total


# --- the Hub


@contextmanager
def fresh_hub(folder: Path) -> Iterator[process.Running]:
    """An empty embedded Hub; what it kept is removed and on disk nothing waits to be written."""
    os.sync()
    running = process.start(folder, port=0, faults=True)
    try:
        faults(running)
        yield running
    finally:
        process.stop(folder)
        shutil.rmtree(folder)
        os.sync()


def weights_sent(hub: process.Running, weights: dict[str, Digests]) -> int:
    """Bytes of weights that the Hub was sent: one request a file, which it takes only whole."""
    sizes = {item.sha256: item.size for item in weights.values()}
    named = [line.rsplit("/", 1)[1] for line in requests(hub) if line.startswith("PUT /lfs/")]
    return sum(sizes.get(oid, 0) for oid in named)


@contextmanager
def counting(hub: process.Running) -> Iterator[tuple[str, list[int]]]:
    """An address that passes everything on to ``hub``, and the sizes of the pieces that clients sent (headers too)."""
    port, sizes = int(hub.url.rsplit(":", 1)[1]), []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, *, count: bool) -> None:
        try:
            while piece := source.recv(2**18):
                if count:
                    sizes.append(len(piece))
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=pump, args=(client, server), kwargs={"count": True}, daemon=True).start()
            threading.Thread(target=pump, args=(server, client), kwargs={"count": False}, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sizes
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


# --- the comparison


class Bench:
    """One bundle of about ``size`` bytes of weights, published again and again from ``folder``."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.tree = folder, folder / "tree"
        signatures.key_pair(folder)
        with fresh_hub(folder / "hub") as hub:
            self.release = Release.on(hub, folder)
            self.weights = prepare(self.release, size)
            ctx = self.release.context("publish[main]")
            made = ctx.inputs
            files = build(made.merged, made.adapter, made.cards, publish.provenance(ctx), ctx.out / "written").files
        for path, local in files.items():
            (self.tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local, self.tree / path)
        self.size = sum(item.size for item in self.weights.values())

    def upload(self, name: str, hub: process.Running, endpoint: str) -> dict[str, Any]:
        """Publish the bundle by hubkit's publish stage, or the same files by `hf upload`."""
        commands: dict[str, list[str | Path]] = {
            "hubkit": [sys.executable, __file__, "--publish", self.folder, self.release.run.path, endpoint],
            "hf": [HF, "upload", REPO, self.tree, "."],
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        kept["PYTHONPATH"] = os.pathsep.join(sys.path)
        own = {"HF_ENDPOINT": endpoint, "HF_TOKEN": hub.token, "HF_HOME": str(self.folder / "hf")}
        quiet = dict.fromkeys(("XET", "TELEMETRY", "PROGRESS_BARS"), "1")
        environment = kept | own | {f"HF_HUB_DISABLE_{what}": value for what, value in quiet.items()}
        return measured(commands[name], environment, psutil.Process(hub.pid))

    def write_card(self, text: str) -> None:
        """Another card in the run and in the folder, and nothing else."""
        before = self.release.made["card[main]"]
        files: dict[str, Any] = {name: (before.path / name).read_bytes() for name in before.manifest.files}
        self.release.make("card[main]", files | {"README.md": card(text)})
        (self.tree / "README.md").write_text(card(text))

    def once(self, name: str) -> dict[str, dict[str, Any]]:
        """Publish to a Hub that has nothing of the bundle, then once more after the card changed."""
        shutil.rmtree(self.release.run.artifacts / "publish[main]", ignore_errors=True)
        self.write_card("main")
        with fresh_hub(self.folder / "hub") as hub:
            first = self.upload(name, hub, hub.url)
            first["sent"] = weights_sent(hub, self.weights)
            self.write_card("main, with a card that says more")
            with counting(hub) as (endpoint, sizes):
                again = self.upload(name, hub, endpoint)
                again["sent"] = sum(sizes)
        return {"first": first, "again": again}


def main() -> None:
    """Measure, print and write docs/bench-publish.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=2 * GIB, help="bytes of weights")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench-publish.md")
    parser.add_argument("--publish", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.publish:
        folder, run, endpoint = chosen.publish
        publish_once(Path(folder), Path(run), endpoint, os.environ["HF_TOKEN"])
        return
    runs: dict[str, list[dict[str, dict[str, Any]]]] = {"hubkit": [], "hf": []}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="hubkit-bench-") as name:
        bench = Bench(Path(name), chosen.size)
        for number in range(chosen.repeats):
            for who in sorted(runs, reverse=number % 2 == 0):
                runs[who].append(bench.once(who))
                loads.append(os.getloadavg()[0])
                first, again = runs[who][-1]["first"], runs[who][-1]["again"]
                print(
                    f"{who} {number + 1}: {first['seconds']:.1f} s, CPU {first['cpu']:.1f} s, read {first['read']:,},"
                    f" sent {first['sent']:,}; card only {again['seconds']:.1f} s, sent {again['sent']:,}"
                    f" (load {loads[-1]:.1f})",
                    flush=True,
                )
        text = report(runs, bench.size, len(bench.weights), loads)
    chosen.out.write_text(text, encoding="utf-8")
    print(text)


def report(runs: dict[str, list[dict[str, dict[str, Any]]]], size: int, shards: int, loads: list[float]) -> str:
    """The figures as Markdown."""

    def median(who: str, when: str, key: str) -> float:
        return statistics.median(run[when][key] for run in runs[who])

    def row(title: str, when: str, key: str, unit: float, form: str) -> str:
        ours, theirs = median("hubkit", when, key), median("hf", when, key)
        spread = [
            f"{form.format(min(values) / unit)}-{form.format(max(values) / unit)}"
            for values in ([run[when][key] for run in runs[who]] for who in ("hubkit", "hf"))
        ]
        return (
            f"| {title} | {form.format(ours / unit)} ({spread[0]}) | {form.format(theirs / unit)} ({spread[1]}) "
            f"| {ours / theirs:.2f} |"
        )

    parts = runs["hubkit"][0]["first"]["parts"]
    started = statistics.median(run["first"]["seconds"] - sum(run["first"]["parts"].values()) for run in runs["hubkit"])
    pairs = [ours["first"]["seconds"] / theirs["first"]["seconds"] for ours, theirs in zip(*runs.values(), strict=True)]
    lines = [
        "# What publishing costs",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: {size / GIB:.2f} GiB of weights in {shards} shards, "
        f"screened, signed and published to a fresh embedded Hub by hubkit's publish step, beside `hf upload` of the "
        f"same folder (huggingface_hub {version('huggingface_hub')}, LFS), {len(runs['hf'])} times each in turn, on "
        f"{os.cpu_count()} cores ({platform.machine()}). The load of the machine was {min(loads):.1f} to "
        f"{max(loads):.1f} (one minute); both read from the page cache. That the tensors fit config.json is the "
        f"merge's to find out, and not counted here. Medians, with least and most.",
        "",
        "| figure | hubkit | hf upload | ratio |",
        "|---|---:|---:|---:|",
        row("wall time, s", "first", "seconds", 1, "{:.1f}"),
        row("CPU time of the client, s", "first", "cpu", 1, "{:.1f}"),
        row("CPU time of the Hub, s", "first", "server_cpu", 1, "{:.1f}"),
        row("peak memory of the client (PSS), MiB", "first", "peak", 2**20, "{:.0f}"),
        row("peak memory of the Hub (RSS), MiB", "first", "server_peak", 2**20, "{:.0f}"),
        row("bytes read by the client, in sizes of the weights", "first", "read", size, "{:.2f}"),
        row("bytes of weights that the Hub was sent, in their size", "first", "sent", size, "{:.2f}"),
        row("again after another card: wall time, s", "again", "seconds", 1, "{:.1f}"),
        row("again after another card: bytes read, in sizes of the weights", "again", "read", size, "{:.2f}"),
        row("again after another card: bytes sent, kB", "again", "sent", 1000, "{:.1f}"),
        "",
        f"Wall time, hubkit to hf upload, repeat by repeat: {', '.join(f'{pair:.2f}' for pair in pairs)} (aim: 1 at "
        f"most). Sent after another card: at most {max(run['again']['sent'] for run in runs['hubkit']):,} bytes, "
        f"headers included (aim: under {CARD_LIMIT:,}).",
        "",
        "Bytes read are those of the `read` calls of the client and its children, the libraries that they import "
        "included. What hubkit reads beyond the re-publish, which reads no weight, is "
        f"{(median('hubkit', 'first', 'read') - median('hubkit', 'again', 'read')) / size:.2f} sizes of the weights.",
        "",
        "Seconds of hubkit's step by part, medians:",
        "",
        "| part | first | another card |",
        "|---|---:|---:|",
        f"| starting, importing and ending | {started:.1f} | |",
    ]
    for part in parts:
        figures = [statistics.median(run[when]["parts"][part] for run in runs["hubkit"]) for when in ("first", "again")]
        lines.append(f"| {part} | {figures[0]:.1f} | {figures[1]:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
