"""How to use a repo of this Hub: the commands and the code, each with this Hub's address and the revision shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hubkit.core.bounded_json import SETTINGS, JsonError, load_json
from hubkit.server.pages import card_facts

_PLAIN = re.compile(r"[A-Za-z0-9 ._/@:+=-]*")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,200}")
_SPLIT = re.compile(r"(.+)-\d{5}-of-\d{5}\.gguf")
_SERVES = "Serves the OpenAI API at port {}."
_WITH_LFS = "Needs git-lfs. The password is a token, the user name any word."
_NO_BRANCH = re.compile(r"[0-9a-f]{7,40}$|refs/")
_QUESTION = "What is the capital of France?"
_PIPELINES = frozenset(
    [
        "audio-classification",
        "automatic-speech-recognition",
        "depth-estimation",
        "feature-extraction",
        "fill-mask",
        "image-classification",
        "image-segmentation",
        "image-to-text",
        "object-detection",
        "text-classification",
        "text-to-audio",
        "token-classification",
        "zero-shot-classification",
        "zero-shot-image-classification",
    ]
)
_LORA_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can be started with; the first is its default."""


@dataclass(frozen=True)
class Snippet:
    """One way to use a repo: code to copy, and what to know first."""

    title: str
    code: str
    language: str = "python"
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """What the ways to use a repo depend on."""

    id: str
    kind: str
    revision: str
    endpoint: str
    """This Hub's address."""
    files: Sequence[str]
    info: dict[str, Any]
    chat: bool = False
    """Whether it has a chat template."""
    adapter: dict[str, Any] = field(default_factory=dict)
    """Its adapter_config.json."""
    base_here: bool = False
    """Whether the base of its adapter is on this Hub, for the reader."""
    app: str | None = None
    """The address of the app of a Space that runs."""

    @property
    def architectures(self) -> list[str]:
        """The classes that config.json names."""
        given = (self.info.get("config") or {}).get("architectures")
        return [name for name in given if isinstance(name, str)] if isinstance(given, list) else []

    @property
    def generates(self) -> bool:
        """Whether it is a causal language model."""
        return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in self.architectures)

    @property
    def adapter_folder(self) -> str | None:
        """The folder of its LoRA adapter, "" for the root; None without an adapter."""
        folders = {"adapter_config.json": "", "adapter/adapter_config.json": "adapter"}
        return next((folder for name, folder in folders.items() if name in self.files), None)

    @property
    def base(self) -> str:
        """The base of its adapter, by its settings or its card; "" when they name none on a Hub."""
        front = self.info.get("cardData") or {}
        given = [self.adapter.get("base_model_name_or_path"), *card_facts.listed(front, "base_model")]
        return next((name for name in given if isinstance(name, str) and _REPO.fullmatch(name)), "")


def snippets(facts: Facts) -> list[Snippet]:
    """The ways to use a repo, the most usual first."""
    if facts.kind == "dataset":
        return [*_datasets(facts), _download(facts), _git(facts)]
    if facts.kind == "space":
        return [*_space(facts), _download(facts), _git(facts)]
    return [*_transformers(facts), *_peft(facts), *_gguf(facts), _download(facts), *_vllm(facts), _git(facts)]


def settings(data: bytes) -> dict[str, Any]:
    """A JSON file of settings; empty when it is no such thing."""
    try:
        value = load_json(data, SETTINGS)
    except JsonError:
        return {}
    return value if isinstance(value, dict) else {}


def _quoted(text: str) -> str:
    """A string of Python."""
    return f'"{text}"' if _PLAIN.fullmatch(text) else ascii(text)


def _from_this_hub(facts: Facts, code: str) -> str:
    """Python that asks this Hub: the variable is set before libraries are imported, which read it once."""
    return f'import os\n\nos.environ["HF_ENDPOINT"] = {_quoted(facts.endpoint)}\n\n{code}'


def _export(facts: Facts) -> str:
    return f"export HF_ENDPOINT={shlex.quote(facts.endpoint)}\n"


def _named(facts: Facts) -> str:
    return f"{_quoted(facts.id)}, revision={_quoted(facts.revision)}"


# Models -----------------------------------------------------------------------------------------------------


def _transformers(facts: Facts) -> list[Snippet]:
    if "config.json" not in facts.files or facts.info.get("library_name") not in {None, "transformers"}:
        return []
    task = facts.info.get("pipeline_tag")
    if facts.generates:
        code = _generating(facts)
    elif isinstance(task, str) and task in _PIPELINES:
        code = f'from transformers import pipeline\n\npipe = pipeline("{task}", model={_named(facts)})\n'
    else:
        code = f"from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained({_named(facts)})\n"
    return [Snippet("Transformers", _from_this_hub(facts, code))]


def _generating(facts: Facts) -> str:
    head = (
        f'from transformers import pipeline\n\ngenerate = pipeline(\n    "text-generation", model={_named(facts)}\n)\n'
    )
    if not facts.chat:
        asked = 'answer = generate("The capital of France is", max_new_tokens=32)\n'
        return f'{head}{asked}print(answer[0]["generated_text"])\n'
    return (
        f'{head}messages = [{{"role": "user", "content": "{_QUESTION}"}}]\n'
        'answer = generate(messages, max_new_tokens=64)[0]["generated_text"]\nprint(answer[-1]["content"])\n'
    )


def _peft(facts: Facts) -> list[Snippet]:
    folder, base = facts.adapter_folder, facts.base
    if folder is None or not base:
        return []
    imports = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    loaded = f'base = AutoModelForCausalLM.from_pretrained({_quoted(base)}, dtype="auto")\n'
    if facts.base_here:
        below = f', subfolder="{folder}"' if folder else ""
        code = f"{imports}{loaded}model = PeftModel.from_pretrained(\n    base, {_named(facts)}{below}\n)\n"
        tokenizer = f"tokenizer = AutoTokenizer.from_pretrained({_named(facts)})\n"
        return [Snippet("PEFT (LoRA adapter)", _from_this_hub(facts, code + tokenizer))]
    place = f'f"{{folder}}/{folder}"' if folder else "folder"
    code = (
        f"from huggingface_hub import snapshot_download\n{imports}"
        f"folder = snapshot_download(\n    {_named(facts)}, endpoint={_quoted(facts.endpoint)}\n)\n"
        f"{loaded}model = PeftModel.from_pretrained(base, {place})\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
    )
    note = f"The base {base} is not on this Hub: it is downloaded from huggingface.co, the adapter from here."
    return [Snippet("PEFT (LoRA adapter)", code, note=note)]


def _download(facts: Facts) -> Snippet:
    kind = "" if facts.kind == "model" else f" --repo-type {facts.kind}"
    code = f"{_export(facts)}hf download {facts.id}{kind} --revision {shlex.quote(facts.revision)}\n"
    return Snippet("Download", code, "shell")


def _git(facts: Facts) -> Snippet:
    prefix = "" if facts.kind == "model" else f"{facts.kind}s/"
    revision = facts.revision
    branch = "" if revision in {"main", "HEAD"} or _NO_BRANCH.match(revision) else f"-b {shlex.quote(revision)} "
    return Snippet("git", f"git clone {branch}{facts.endpoint}/{prefix}{facts.id}\n", "shell", _WITH_LFS)


def _vllm(facts: Facts) -> list[Snippet]:
    name, revision = facts.id.partition("/")[2], shlex.quote(facts.revision)
    if facts.generates:
        code = f"{_export(facts)}vllm serve {facts.id} --revision {revision} \\\n  --tokenizer-revision {revision}\n"
        return [Snippet("vLLM", code, "shell", _SERVES.format(8000))]
    folder, base = facts.adapter_folder, facts.base
    if folder is None or not base:
        return []
    rank = facts.adapter.get("r")
    given = rank if isinstance(rank, int) else _LORA_RANKS[0]
    most = next((size for size in _LORA_RANKS if size >= given), _LORA_RANKS[-1])
    ranks = f" --max-lora-rank {most}" if most > _LORA_RANKS[0] else ""
    served = (
        f"vllm serve {base} --enable-lora \\\n  --lora-modules {name}=./{name}{f'/{folder}' if folder else ''}{ranks}\n"
    )
    download = f"hf download {facts.id} --revision {revision} --local-dir {name}\n"
    if facts.base_here:
        return [Snippet("vLLM", f"{_export(facts)}{download}{served}", "shell")]
    code = f"HF_ENDPOINT={shlex.quote(facts.endpoint)} {download}{served}"
    return [Snippet("vLLM", code, "shell", f"The base {base} is downloaded from huggingface.co.")]


def _gguf(facts: Facts) -> list[Snippet]:
    files = [name for name in facts.files if name.endswith(".gguf") and _FILE.fullmatch(name)]
    if not files:
        return []
    usual = next((name for name in files if "Q4_K_M" in name.upper()), files[0])
    split = _SPLIT.fullmatch(usual)
    wanted = f"--include '{split[1]}-*.gguf'" if split else usual
    first = next(name for name in files if name.startswith(f"{split[1]}-")) if split else usual
    download = (
        f"{_export(facts)}hf download {facts.id} {wanted} --revision {shlex.quote(facts.revision)} --local-dir .\n"
    )
    ways = [Snippet("llama.cpp", f"{download}llama-server -m {first}\n", "shell", _SERVES.format(8080))]
    if not split:
        name = re.sub(r"[^a-z0-9._-]", "-", facts.id.partition("/")[2].lower())
        made = f"echo 'FROM ./{first}' > Modelfile\nollama create {name} -f Modelfile\nollama run {name}\n"
        ways.append(Snippet("Ollama", f"{download}{made}", "shell"))
    return ways


# Datasets and Spaces ----------------------------------------------------------------------------------------


def _datasets(facts: Facts) -> list[Snippet]:
    configs = (facts.info.get("cardData") or {}).get("configs")
    items = [item for item in configs if isinstance(item, dict)] if isinstance(configs, list) else []
    names = [item["config_name"] for item in items if isinstance(item.get("config_name"), str)]
    first = f"{_quoted(names[0])}, " if len(names) > 1 else ""
    code = (
        "from datasets import load_dataset\n\n"
        f"dataset = load_dataset(\n    {_quoted(facts.id)}, {first}revision={_quoted(facts.revision)}\n)\n"
        "print(dataset)\n"
    )
    note = f"It has several configurations: {', '.join(names[:20])}." if first else ""
    return [Snippet("Datasets", _from_this_hub(facts, code), note=note)]


def _space(facts: Facts) -> list[Snippet]:
    if facts.info.get("sdk") != "gradio":
        return []
    if not facts.app:
        return [Snippet("Run it on this machine", _app(facts), "shell")]
    code = f"from gradio_client import Client\n\nclient = Client({_quoted(facts.app)})\nclient.view_api()\n"
    return [Snippet("Gradio client", code), Snippet("Run it on this machine", _app(facts), "shell")]


def _app(facts: Facts) -> str:
    given = (facts.info.get("cardData") or {}).get("app_file")
    file = given if isinstance(given, str) and _FILE.fullmatch(given) and given in facts.files else "app.py"
    name = facts.id.partition("/")[2]
    required = "pip install -r requirements.txt\n" if "requirements.txt" in facts.files else ""
    return (
        f"{_export(facts)}hf download {facts.id} --repo-type space --revision {shlex.quote(facts.revision)}"
        f" --local-dir {name}\ncd {name}\n{required}python {shlex.quote(file)}\n"
    )
