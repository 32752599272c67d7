"""A model read by the transformers, and the PEFT, of the environment that runs this script. Imports nothing of hubkit.

python in_transformers.py JOB: ``JOB`` is a JSON file; the report is written to the file that it names. What fails is
the report's ``failed``: the other parts are still tried. It runs with transformers 4.36 to 5.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

_BEST = 5
"""How many of the best tokens are reported at each step of an answer."""


def main() -> None:
    """Read the job, and write the report."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Path(job["report"]).write_text(json.dumps(read(job)), "utf-8")


def read(job: dict[str, Any]) -> dict[str, Any]:
    """The report of ``job``; ``failed`` names what could not be loaded or asked, and why."""
    names = ["transformers", "tokenizers", "torch", *(["peft"] if job["adapter"] else [])]
    report: dict[str, Any] = {"versions": {name: version(name) for name in names}, "failed": []}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = _tried(report, "the tokenizer", lambda: _tokenizer(job))
        if tokenizer is not None:
            report["renderings"] = _renderings(tokenizer, job)
            report["texts"] = {text: _ids(tokenizer, text) for text in job["texts"]}
        model = _tried(report, "the weights", lambda: _model(job, report))
        if model is not None and job["adapter"]:
            model = _tried(report, "the adapter", lambda: _with_adapter(model, job))
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
        report["failed"].append({"what": what, "error": f"{type(error).__name__}: {error}"})
        return None


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
    loaded = AutoModelForCausalLM.from_pretrained(
        job["model"], config=config, trust_remote_code=False, use_safetensors=True, **{name: torch.float32}
    )
    return loaded.eval()


def _with_adapter(model: Any, job: dict[str, Any]) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, job["adapter"]).eval()


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
    """The greedy answers, ended by nothing but the model's own files or the limit; the best tokens of each step."""
    import torch

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
