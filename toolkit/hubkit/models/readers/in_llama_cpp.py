"""A GGUF file read by the llama-cpp-python of the environment that runs this script. Imports nothing of hubkit.

python in_llama_cpp.py JOB: as ``in_transformers.py``; the model is a GGUF file. The conversations come rendered, and
the file's chat template and type are compared by the program that reads the report. ``environment`` is why
llama-cpp-python itself cannot be imported.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    """Read the job, and write the report."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    report: dict[str, Any] = {"failed": []}
    try:
        report["versions"] = {"llama-cpp-python": version("llama-cpp-python")}
        import llama_cpp  # noqa: F401
        import numpy  # noqa: F401
    except Exception as error:
        report["environment"] = f"{type(error).__name__}: {error}"
    else:
        try:
            _read(job, report)
        except Exception as error:
            report["failed"].append({"what": "the file", "error": f"{type(error).__name__}: {error}"})
    Path(job["report"]).write_text(json.dumps(report), "utf-8")


def _end_with_parent() -> None:
    """End when the parent does: its end of the standard input is closed then."""
    sys.stdin.read()
    os._exit(1)


def _read(job: dict[str, Any], report: dict[str, Any]) -> None:
    import llama_cpp

    longest = max((len(text.encode()) for text in job["rendered"].values()), default=0)
    room = max(64, longest + job["max_new_tokens"])  # a token has at least a byte
    model = llama_cpp.Llama(model_path=job["model"], n_ctx=room, n_batch=room, verbose=False)
    words = llama_cpp.llama_model_get_vocab(model.model)
    report["template"] = model.metadata.get("tokenizer.chat_template")
    report["file_type"] = model.metadata.get("general.file_type")
    report["renderings"] = {
        name: {"text": text, "ids": _ids(llama_cpp, words, text)} for name, text in job["rendered"].items()
    }
    report["texts"] = {text: _ids(llama_cpp, words, text) for text in job["texts"]}
    count = llama_cpp.llama_vocab_n_tokens(words)
    report["eos"] = [number for number in range(count) if llama_cpp.llama_vocab_is_eog(words, number)]
    report["answers"] = [
        {"prompt": name, "ids": _answer(llama_cpp, model, report["renderings"][name]["ids"], report["eos"], job)}
        for name in job["prompts"]
        if name in report["renderings"]
    ]


def _ids(library: Any, words: Any, text: str) -> list[int]:
    content = text.encode()
    found = (library.llama_token * (len(content) + 8))()
    got = library.llama_tokenize(words, content, len(content), found, len(content) + 8, False, True)
    return list(found[: max(0, got)])


def _answer(library: Any, model: Any, ids: list[int], ends: list[int], job: dict[str, Any]) -> list[int]:
    import numpy

    model.reset()
    new: list[int] = []
    pending = list(ids)
    count = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model.model))
    while len(new) < job["max_new_tokens"]:
        model.eval(pending)
        scores = numpy.ctypeslib.as_array(library.llama_get_logits_ith(model.ctx, -1), shape=(count,))
        new.append(int(scores.argmax()))
        if new[-1] in ends:
            break
        pending = [new[-1]]
    return new


if __name__ == "__main__":
    main()
