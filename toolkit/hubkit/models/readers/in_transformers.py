"""A model read by the transformers, and the PEFT, of the environment that runs this script. Imports nothing of hubkit.

python in_transformers.py JOB: ``JOB`` is a JSON file; the report is written to the file that it names. What fails is
the report's ``failed``: the other parts are still tried. ``environment`` is why the programs themselves cannot be
imported, and ``memory`` that there is too little. It runs with transformers 4.36 to 5.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

_BEST = 5
"""How many of the best tokens are reported at each step of an answer."""
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "peft", "accelerate", "numpy")
"""What every environment has, by the names of the modules."""


def main() -> None:
    """Read the job, and write the report."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Path(job["report"]).write_text(json.dumps(read(job)), "utf-8")


def read(job: dict[str, Any]) -> dict[str, Any]:
    """The report of ``job``; ``failed`` names what could not be loaded or asked, and why."""
    names = ["transformers", "tokenizers", "torch", *(["peft"] if job["adapter"] else [])]
    report: dict[str, Any] = {"failed": []}
    try:
        report["versions"] = {name: version(name) for name in names}
        _import(job)
    except Exception as error:  # nothing of the model was looked at yet
        report["environment"] = f"{type(error).__name__}: {error}"
        return report
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = _tried(report, "the tokenizer", lambda: _tokenizer(job))
        if tokenizer is not None:
            report["template"] = _template(tokenizer)
            report["renderings"] = _renderings(tokenizer, job)
            report["texts"] = {text: _ids(tokenizer, text) for text in job["texts"]}
        model = _tried(report, "the weights", lambda: _model(job, report))
        if model is not None and job["adapter"]:
            model = _tried(report, "the adapter", lambda: _with_adapter(model, job, caught))
        if model is not None:
            report["eos"] = _as_list(model.generation_config.eos_token_id)
            if tokenizer is not None:
                report["answers"] = _tried(report, "the answers", lambda: _answers(model, report, job))
    messages = [str(item.message) for item in caught]
    report["warnings"] = [text for text in messages if "Unexpected keyword arguments" in text]
    return report


def _end_with_parent() -> None:
    """End when the parent does: its end of the standard input is closed then."""
    sys.stdin.read()
    os._exit(1)


def _tried(report: dict[str, Any], what: str, do: Callable[[], Any]) -> Any:
    """What ``do`` returns; None when it fails, which the report then tells."""
    try:
        return do()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
            report["memory"] = text
        elif _of_environment(error):
            report["environment"] = text
        else:
            report["failed"].append({"what": what, "error": text})
        return None


def _import(job: dict[str, Any]) -> None:
    import torch  # noqa: F401
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401

    if job["adapter"]:
        from peft import PeftModel  # noqa: F401


def _of_environment(error: BaseException | None) -> bool:
    """Whether a package of the environment is incomplete; not whether the model needs a package beside them."""
    while error is not None:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in _PACKAGES:
            return True
        error = error.__cause__ or error.__context__
    return False


def _template(tokenizer: Any) -> str | None:
    """The chat template that is used unless another is named."""
    found = tokenizer.chat_template
    return found.get("default") if isinstance(found, dict) else found


def _tokenizer(job: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(job["tokenizer"], trust_remote_code=False)


def _model(job: dict[str, Any], report: dict[str, Any]) -> Any:
    """The model in float32: answers then differ between versions by what they read, hardly by rounding."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(job["model"], trust_remote_code=False)
    report["dtype"] = str(getattr(config, "torch_dtype", None)).removeprefix("torch.")
    name = "dtype" if int(version("transformers").split(".")[0]) >= 5 else "torch_dtype"
    loaded, info = AutoModelForCausalLM.from_pretrained(
        job["model"], config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
        **{name: torch.float32},
    )  # fmt: skip
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} tensors are not in the files, as {missing[0]}: they get random numbers")
    return loaded.eval()


def _with_adapter(model: Any, job: dict[str, Any], caught: list[warnings.WarningMessage]) -> Any:
    """The model with the adapter. ValueError where the file and the model's adapter have not the same tensors."""
    from peft import PeftModel

    if not Path(job["adapter"], "adapter_model.safetensors").is_file():
        raise FileNotFoundError("there is no adapter_model.safetensors, and a pickle is not loaded")
    adapted = PeftModel.from_pretrained(model, job["adapter"]).eval()
    for problem in _unfitting(adapted, job["adapter"], caught):
        raise ValueError(problem)
    return adapted


def _unfitting(adapted: Any, folder: str, caught: list[warnings.WarningMessage]) -> Iterator[str]:
    """What of the adapter is not in the file, or not in the model: PEFT passes over both, older ones in silence."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    # Embeddings are left out: whether to save them, PEFT asks the config of the base, which may be on the Hub.
    known = "save_embedding_layers" in inspect.signature(get_peft_model_state_dict).parameters
    state = get_peft_model_state_dict(adapted, **({"save_embedding_layers": False} if known else {}))
    with safe_open(f"{folder}/adapter_model.safetensors", framework="pt") as file:
        inside = {name for name in file.keys() if "lora_" in name}  # noqa: SIM118
    wanted = {name for name in state if "lora_" in name}
    if missing := sorted(wanted - inside):
        yield f"{len(missing)} of its {len(wanted)} tensors are not in the file, as {missing[0]}"
    if unused := sorted(inside - wanted):
        yield f"{len(unused)} of the file's {len(inside)} tensors fit nothing in the model, as {unused[0]}"
    yield from (str(item.message) for item in caught if "missing adapter keys" in str(item.message))


def _renderings(tokenizer: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Each conversation as the chat template writes it, with its token ids; or why it does not."""
    found: dict[str, Any] = {}
    for name, (messages, opening) in job["conversations"].items():
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening)
        except Exception as error:
            found[name] = {"refused": f"{type(error).__name__}: {error}"}
        else:
            found[name] = {"text": text, "ids": _ids(tokenizer, text)}
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    return [int(number) for number in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _answers(model: Any, report: dict[str, Any], job: dict[str, Any]) -> list[dict[str, Any]]:
    """The greedy answers, ended by nothing but the model's own files or the limit; the best tokens of each step.

    Of generation_config.json the token ids alone are used: not every reader knows its penalties, and they are no matter
    of reading weights.
    """
    import torch
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id, bos_token_id=own.bos_token_id
    )
    found = []
    for name in job["prompts"]:
        ids = report["renderings"][name].get("ids")
        if not ids:
            continue
        given = torch.tensor([ids])
        with torch.inference_mode():
            made = model.generate(
                input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=job["max_new_tokens"],
                do_sample=False, num_beams=1, output_scores=True, return_dict_in_generate=True,
            )  # fmt: skip
        new = made.sequences[0][len(ids) :].tolist()
        best = [score[0].float().topk(min(_BEST, score.shape[-1])) for score in made.scores]
        steps = [
            [[int(number), round(float(value), 5)] for number, value in zip(item.indices, item.values, strict=True)]
            for item in best
        ]
        found.append({"prompt": name, "ids": new, "best": steps})
    return found


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [int(value)]


if __name__ == "__main__":
    main()
