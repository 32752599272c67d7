"""The cost of each step of a release on one device: seconds, memory on the device, bytes on disk.

Constants say where they were measured; the rest is arithmetic of :mod:`hubkit.pipeline.costs.formulas`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hubkit.pipeline.costs import benchmarks, training
from hubkit.pipeline.costs.devices import Device
from hubkit.pipeline.costs.formulas import Memory, ModelSize, generation_memory, scoring_memory
from hubkit.pipeline.costs.sources import TEXT_BYTES, Rows, Sizes
from hubkit.pipeline.costs.speedups import Speedups
from hubkit.pipeline.costs.training import TrainingWork
from hubkit.pipeline.jobs import Job
from hubkit.recipe.models import Recipe

FORMS = {"merged": 1.0, "adapter": 2.0, "four-bit": 3.0}
"""How many times the operations of a plain layer each form starts: LoRA adds its own, NF4 dequantizes before each."""
REACHED = 0.6
"""Of a memory's bandwidth, while weights are read to generate a token."""
HOST_BANDWIDTH, HOST_FLOPS = 50e9, 0.5e12
"""Assumed of the CPU beside a GPU, on which llama.cpp runs: bytes and FLOPs a second."""
_GGUF_BITS = {
    "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q2_k": 3.2, "q3_k_s": 3.6, "q3_k_m": 4.0, "q3_k_l": 4.3, "q4_0": 4.6,
    "q4_1": 5.1, "q4_k_s": 4.7, "q4_k_m": 4.9, "q5_0": 5.6, "q5_1": 6.1, "q5_k_s": 5.6, "q5_k_m": 5.7, "q6_k": 6.6,
    "iq4_nl": 4.7, "iq4_xs": 4.5,
}  # fmt: skip
"""Bits that a number takes in each type of GGUF, about: a model of 8 B parameters in llama.cpp's mixtures."""
BLOCKS = 5
"""Python code blocks on the cards of a variant; four of them load the model."""


@dataclass(frozen=True)
class Cost:
    """What one step costs on one device. ``seconds`` is None when it cannot be computed (``why`` says why).

    ``memory`` is at the longest batch, ``typical`` at a mean one. ``disk`` bytes stay; ``scratch`` bytes are gone when
    the step is done; ``upload`` bytes are sent to the Hub.
    """

    seconds: float | None = None
    memory: Memory | None = None
    typical: Memory | None = None
    disk: int = 0
    scratch: int = 0
    upload: int = 0
    why: str | None = None


@dataclass(frozen=True)
class Situation:
    """A recipe with its sizes; ``embedded``: the Hub is on this machine, and keeps its copies here."""

    recipe: Recipe
    sizes: Sizes
    work: benchmarks.Work
    embedded: bool
    trainings: Mapping[str, TrainingWork | None] = field(default_factory=dict)
    gguf_work: benchmarks.Work = field(default_factory=benchmarks.Work)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        sizes: Sizes,
        work: benchmarks.Work,
        *,
        embedded: bool,
        processes: Mapping[str, int] | None = None,
        speedups: Speedups | None = None,
        gguf_work: benchmarks.Work | None = None,
    ) -> Situation:
        """With the work of each training stage; ``processes`` are those of the stages that several do together.

        ``gguf_work`` are the benchmarks that are run on GGUF files.
        """
        trainings = {}
        for name, stage in recipe.stages.items():
            rows, together = sizes.data.get(stage.data or "", Rows(None)), (processes or {}).get(name, 1)
            found = training.work_of(stage, name, rows, together)
            trainings[name] = (speedups or Speedups()).applied(found, recipe, name)
        return cls(recipe, sizes, work, embedded, trainings, gguf_work or benchmarks.Work())

    @property
    def model(self) -> ModelSize:
        """The base. Asked for only where it is known (:func:`cost`)."""
        assert self.sizes.model is not None
        return self.sizes.model

    @property
    def published(self) -> int:
        """Bytes of a variant's merged weights."""
        return self.model.bytes(self.recipe.base.dtype)

    def gguf_bytes(self) -> dict[str, int]:
        """Bytes of a variant's GGUF file in each type that the recipe asks for."""
        types = self.recipe.gguf.types if self.recipe.gguf else ()
        return {kind: round(self.model.parameters * _GGUF_BITS[kind] / 8) for kind in types}

    def stage_of(self, job: Job) -> str:
        """The training stage of ``job`` or of its variant."""
        return job.stage_name or self.recipe.variants[job.variant_name or ""].stage

    def adapter_bytes(self, job: Job) -> int:
        """Bytes of the adapter of ``job``'s variant, in float32; 0 where its weights are published alone."""
        return self.adapter_of(self.stage_of(job))

    def adapter_of(self, stage: str) -> int:
        """Bytes of the adapter that ``stage`` leaves, in float32; 0 where it leaves weights."""
        return 4 * self.sizes.trained.get(stage, 0) if self.recipe.form(stage) == "adapter" else 0


def cost(job: Job, situation: Situation, device: Device) -> Cost:
    """The cost of ``job``."""
    compute = _COSTS.get(job.stage)
    if compute is None:
        return Cost(why=f"its code {job.stage} is not hubkit's")
    if situation.sizes.model is None and job.stage not in _WITHOUT_MODEL:
        return Cost(why="the size of the base is unknown")
    return compute(job, situation, device)


def _provide(job: Job, it: Situation, device: Device) -> Cost:
    if it.sizes.provide_seconds is None:
        return Cost(why=f"how long the recipe {it.recipe.provide} takes to create them is unknown")
    return Cost(it.sizes.provide_seconds, disk=it.sizes.base_bytes)


def _base(job: Job, it: Situation, device: Device) -> Cost:
    """Tokenizer and templates; the weights, which later steps download, are counted here once."""
    return Cost(2 + it.sizes.base_bytes / _from_hub(it, device), disk=it.sizes.base_bytes)


def _data(job: Job, it: Situation, device: Device) -> Cost:
    """Rows are kept twice: as the Hub's client caches them, and prepared."""
    if any(rows.rows is None for rows in it.sizes.data.values()):
        return Cost(why="the number of rows is unknown")
    rows = sum(rows.rows or 0 for rows in it.sizes.data.values())
    text = sum((rows.rows or 0) * rows.tokens * TEXT_BYTES * 2 for rows in it.sizes.data.values())
    return Cost(3 + rows / training.ROWS_A_SECOND, disk=round(2 * text))


def _train(job: Job, it: Situation, device: Device) -> Cost:
    name = it.stage_of(job)
    work, trained = it.trainings.get(name), it.sizes.trained.get(name)
    if work is None:
        return Cost(why=f"the rows of data.{it.recipe.stages[name].data} are unknown")
    if trained is None:
        return Cost(why="PEFT could not say what the adapter trains")
    return Cost(
        training.seconds(work, it.model, trained, device) + _load(it, device),
        training.memory(work, it.model, trained, device),
        training.memory(work, it.model, trained, device, longest=False),
        disk=4 * (trained if it.recipe.form(name) == "adapter" else it.model.parameters),
        scratch=training.checkpoint_bytes(work, trained),
    )


def _stopping(job: Job, it: Situation, device: Device) -> Cost:
    """Each form is loaded and generates; every batch runs to its limit (one answer that does not stop is enough)."""
    rate = it.recipe.gates.on_stop_rate()
    forms = ["merged"]
    if job.variant_name is not None and it.recipe.published_form(job.variant_name) == "adapter":
        forms.append("adapter")
        if it.recipe.stages[it.stage_of(job)].quantization == "nf4":
            forms.append("four-bit")
    prompt = it.sizes.data.get(rate.prompts_from or "", Rows(None)).tokens / 2
    seconds = sum(
        _load(it, device)
        + generation(it, device, form, rate.prompts, _batch(rate.batch_size), prompt, rate.max_new_tokens)
        for form in forms
    )
    memory = _generating(it, it.published)
    return Cost(seconds, memory, memory)


def _batch(asked: object) -> int:
    """Rows of a batch; for `auto`, which takes what the memory holds, a number that most devices hold."""
    return asked if isinstance(asked, int) else 16


def _generating(it: Situation, weights: int) -> Memory:
    """Memory of a batch of the stop rate: prompts twice as long as their mean, answers of all the tokens allowed."""
    rate = it.recipe.gates.on_stop_rate()
    prompt = round(it.sizes.data.get(rate.prompts_from or "", Rows(None)).tokens)
    batch = 1 if rate.batch_size == "auto" else min(rate.batch_size, rate.prompts)  # auto shrinks until it fits
    return generation_memory(it.model, weights, batch, prompt, rate.max_new_tokens, it.recipe.base.dtype)


def generation(
    it: Situation, device: Device, form: str, prompts: int, batch: int, prompt: float, new_tokens: int
) -> float:
    """Seconds of greedy generation: for each token the weights are read once and each layer is started."""
    size, batches = it.model, -(-prompts // batch)
    rows = min(batch, prompts)
    weights = size.bytes("nf4") + 4 * size.linear if form == "four-bit" else it.published
    kept = rows * (prompt + new_tokens / 2) * size.layers * size.cached * 2
    moved = (weights + kept) / (device.bandwidth * REACHED)
    flops = size.forward(rows, prompt + new_tokens / 2) / device.rate(size.parameters)
    token = max(moved, flops) + size.layers * device.call * FORMS[form]
    first = size.forward(rows * prompt, prompt) / device.rate(size.parameters)
    return batches * (first + new_tokens * token)


def _evaluate(job: Job, it: Situation, device: Device) -> Cost:
    """Log-likelihoods: one forward pass a request, in batches by length, as lm-eval sorts them."""
    work, size, asked = it.work, it.model, it.recipe.evaluate
    if work.unknown:
        return Cost(why=f"how much {', '.join(work.unknown)} asks is not in hubkit's table")
    if not work.requests:
        return Cost(0.1)
    batch = _batch(asked.batch_size)
    flops = size.forward(work.requests * work.tokens, work.tokens) / device.rate(size.parameters)
    a_pass = size.layers * device.call + it.published / (device.bandwidth * REACHED)
    least = 1 if asked.batch_size == "auto" and device.gpu else batch
    longest = scoring_memory(size, it.published, least, work.longest, it.recipe.base.dtype)
    typical = scoring_memory(size, it.published, least, round(work.tokens), it.recipe.base.dtype)
    return Cost(_load(it, device) + flops + work.requests / batch * a_pass, longest, typical)


def _merge(job: Job, it: Situation, device: Device) -> Cost:
    """Streamed: every byte is written and hashed once, and read once for all variants; the arithmetic is small."""
    read = it.published / len(it.recipe.variants)
    moved = (it.published + read) / device.disk + it.published / device.hashing
    return Cost(1 + moved, disk=it.published + it.adapter_bytes(job))


def _gguf(job: Job, it: Situation, device: Device) -> Cost:
    """Each file is written, hashed, read back and hashed again; then llama.cpp answers the prompts, one at a time.

    It runs on the CPU, which reads the file for every token. Of a GPU's host its speed is assumed. An answer is taken
    to have half of its token limit. Benchmarks are a forward pass a request.
    """
    work = it.gguf_work
    if work.unknown:
        return Cost(why=f"how much {', '.join(work.unknown)} asks is not in hubkit's table")
    files, asked, rate = it.gguf_bytes(), it.recipe.gguf, it.recipe.gates.stop_rate
    seconds = sum(
        it.published / device.disk + file / device.disk + 3 * file / device.hashing for file in files.values()
    )
    bandwidth = HOST_BANDWIDTH if device.gpu else device.bandwidth
    flops = HOST_FLOPS if device.gpu else device.rate(it.model.parameters)
    seconds += len(files) * it.model.forward(work.requests * work.tokens, work.tokens) / flops
    seconds += work.requests * sum(files.values()) / (bandwidth * REACHED)
    if rate is not None:
        prompts = (asked.prompts if asked else None) or rate.prompts
        prompt = it.sizes.data.get(rate.prompts_from or "", Rows(None)).tokens / 2
        for file in files.values():
            token = file / (bandwidth * REACHED)
            first = it.model.forward(prompt, prompt) / flops
            seconds += prompts * (first + rate.max_new_tokens / 2 * token)
    quantized = any(kind not in ("f16", "bf16", "q8_0") for kind in files)  # from a file in 16 bits
    return Cost(1 + seconds, disk=sum(files.values()), scratch=2 * it.model.parameters if quantized else 0)


def _publish(job: Job, it: Situation, device: Device) -> Cost:
    """The embedded Hub writes and hashes a copy on this disk; another Hub is sent the bytes."""
    return _sent(it.published + it.adapter_bytes(job) + _gguf_beside(job, it), it, device)


def _sent(sent: int, it: Situation, device: Device) -> Cost:
    seconds = sent / device.disk + sent / device.hashing if it.embedded else sent / device.network
    return Cost(1 + seconds, disk=sent if it.embedded else 0, upload=sent)


def _gguf_beside(job: Job, it: Situation) -> int:
    """Bytes of the GGUF files that are published beside the weights of ``job``'s variant."""
    name, asked = job.variant_name or "", it.recipe.gguf
    beside = asked is not None and asked.place == "folder" and name in asked.variants
    return sum(it.gguf_bytes().values()) if beside else 0


def _publish_gguf(job: Job, it: Situation, device: Device) -> Cost:
    """As :func:`_publish`; then every byte comes back from the Hub and is hashed, and llama.cpp reads it."""
    size = sum(it.gguf_bytes().values())
    cost = _sent(size, it, device)
    back = size / _from_hub(it, device) + size / device.hashing + size / device.disk
    return replace(cost, seconds=(cost.seconds or 0) + back, scratch=size)


def _loadback(job: Job, it: Situation, device: Device) -> Cost:
    """Every byte comes back from the Hub into a cache of its own and is hashed, as is the base; the merge is computed
    again from both, and each form is loaded and reads a few conversations. Nothing is generated."""
    sent = it.published + it.adapter_bytes(job) + _gguf_beside(job, it)
    seconds = sent / _from_hub(it, device) + (sent + it.sizes.base_bytes) / device.hashing
    forms = 2 if it.recipe.published_form(job.variant_name or "") == "adapter" else 1
    seconds += 2 * it.published / device.disk + forms * _load(it, device)
    memory = scoring_memory(it.model, it.published, 1, 256, it.recipe.base.dtype)
    return Cost(seconds, memory, memory, scratch=sent)


def _snippets(job: Job, it: Situation, device: Device) -> Cost:
    """Four blocks load the model and answer with 256 tokens; imports take 6 s (measured with the tiny recipe)."""
    answer = generation(it, device, "merged", 1, 1, 50, 256)
    seconds = 6 + it.published / _from_hub(it, device) + (BLOCKS - 1) * (_load(it, device) + answer)
    memory = generation_memory(it.model, it.published, 1, 50, 256, it.recipe.base.dtype)
    return Cost(seconds, memory, memory, scratch=it.published)


def _space(job: Job, it: Situation, device: Device) -> Cost:
    """A local test and a deployment: 20 s for the environment and Gradio (measured with the tiny recipe), each loading
    the base with every adapter and the weights of the other variants, and answering once for each."""
    variants = len(it.recipe.variants)
    adapters = sum(it.adapter_of(variant.stage) for variant in it.recipe.variants.values())
    forms = [it.recipe.published_form(name) for name in it.recipe.variants]
    models = forms.count("weights") + ("adapter" in forms)
    answer = generation(it, device, "merged", 1, 1, 50, 256)
    memory = generation_memory(it.model, models * it.published + adapters, 1, 50, 256, it.recipe.base.dtype)
    return Cost(20 + 2 * (models * _load(it, device) + variants * answer), memory, memory)


def _seconds(number: float) -> Callable[[Job, Situation, Device], Cost]:
    def constant(job: Job, it: Situation, device: Device) -> Cost:
        return Cost(number)

    return constant


def _load(it: Situation, device: Device) -> float:
    """Seconds to load the model from disk."""
    return 1 + it.published / device.disk


def _from_hub(it: Situation, device: Device) -> float:
    """Bytes a second that come from the Hub: the embedded one reads this disk."""
    return device.disk if it.embedded else device.network


def _readers(job: Job, it: Situation, device: Device) -> Cost:
    """Unknown: the programs answer on the CPU of this machine, and the first release installs them."""
    return Cost(why="other programs answer on the CPU, and are installed by the first release")


_COSTS: Mapping[str, Callable[[Job, Situation, Device], Cost]] = {
    "provide": _provide,
    "base": _base,
    "data": _data,
    "stopping": _stopping,
    "evaluate": _evaluate,
    "dpo": _train,
    "sft": _train,
    "adopt": _seconds(3),
    "merge": _merge,
    "gguf": _gguf,
    "readers": _readers,
    "gate": _seconds(0.1),
    "card": _seconds(1),
    "publish": _publish,
    "publish_gguf": _publish_gguf,
    "loadback": _loadback,
    "snippets": _snippets,
    "promote": _seconds(0.5),
    "space": _space,
    "collection": _seconds(0.5),
    "new_version": _seconds(0.5),
}
_WITHOUT_MODEL = frozenset({"provide", "base", "data", "adopt", "gate", "card", "promote", "collection", "new_version"})


def to_json(cost: Cost) -> dict[str, Any]:
    """Plain values."""
    return {
        "seconds": None if cost.seconds is None else round(cost.seconds, 1),
        "memory": cost.memory.to_json() if cost.memory else None,
        "disk": cost.disk,
        "scratch": cost.scratch,
        "upload": cost.upload,
        "why": cost.why,
    }
