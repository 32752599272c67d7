"""Result files of other programs, in the shapes that these write."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from typing import Any


def lm_eval(value: float = 0.52, model: str = "me/my-model", **config: Any) -> dict[str, Any]:
    """What lm-eval's ``--output_path`` leaves."""
    return {
        "results": {
            "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": value, "exact_match_stderr,strict-match": 0.02}
        },
        "n-samples": {"gsm8k": {"original": 1319, "effective": 600}},
        "n-shot": {"gsm8k": 5},
        "versions": {"gsm8k": 3.0},
        "higher_is_better": {"gsm8k": {"exact_match": True}},
        "config": {"model": "hf", "model_dtype": "torch.bfloat16", "limit": 600, **config},
        "model_name": model,
        "lm_eval_version": "0.4.9",
        "chat_template": "{{ messages }}",
    }  # fmt: skip


def inspect_log(accuracy: float = 0.75, model: str = "hf/me/my-model", **told: Any) -> dict[str, Any]:
    """A log of inspect's, without its samples."""
    metrics = {
        "accuracy": {"name": "accuracy", "value": accuracy, "params": {}},
        "stderr": {"name": "stderr", "value": 0.03, "params": {}},
    }
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "task": "inspect_evals/arc_easy", "task_version": 2, "model": model, "model_args": {},
            "dataset": {"name": "allenai/ai2_arc", "location": "allenai/ai2_arc", "samples": 2376, "shuffled": False},
            "config": {"limit": 200, "epochs": 1}, "packages": {"inspect_ai": "0.3.285"}, **told,
        },
        "results": {
            "total_samples": 200, "completed_samples": 200,
            "scores": [{"name": "choice", "scorer": "choice", "params": {}, "metrics": metrics}],
        },
    }  # fmt: skip


def archive(log: dict[str, Any] | None, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """``log`` as an ``.eval`` file; None: one whose run did not finish. 93 is Zstandard, inspect's own."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("_journal/start.json", "{}")
        if log is not None and compression != 93:
            made.writestr("header.json", json.dumps(log), compression)
    return packed.getvalue() if log is None or compression != 93 else _zstd(json.dumps(log).encode())


def _zstd(text: bytes) -> bytes:
    import zstandard

    content, name = zstandard.ZstdCompressor().compress(text), b"header.json"
    sizes = (zlib.crc32(text), len(content), len(text))
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 63, 0, 93, 0, 33, *sizes, len(name), 0) + name + content
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 63, 63, 0, 93, 0, 33, *sizes, len(name), 0, 0, 0, 0, 0, 0) + name
    return local + entry + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(local), 0)


def record(score: float = 71.5, unit: str | None = "percent", model: str = "me/my-model") -> dict[str, Any]:
    """A record of Every Eval Ever, with one result."""
    return {
        "schema_version": "0.3.0", "evaluation_id": "mmlu/me/1", "retrieved_timestamp": "1700000000",
        "source_metadata": {
            "source_type": "evaluation_run", "source_organization_name": "me", "evaluator_relationship": "first_party",
        },
        "eval_library": {"name": "helm", "version": "0.5.4"},
        "model_info": {
            "name": "My model", "id": model,
            "additional_details": {"deployment_type": "self_deployed", "model_availability": "open_weights"},
        },
        "evaluation_results": [
            {
                "evaluation_name": "mmlu",
                "source_data": {
                    "dataset_name": "mmlu", "source_type": "hf_dataset", "hf_repo": "cais/mmlu", "hf_split": "test",
                    "samples_number": 400,
                },
                "metric_config": {
                    "metric_id": "exact_match", "lower_is_better": False, "score_type": "continuous", "min_score": 0,
                    "max_score": 100, **({"metric_unit": unit} if unit else {}),
                },
                "score_details": {
                    "score": score, "uncertainty": {"standard_error": {"value": 2.2}, "num_samples": 400},
                },
            }
        ],
    }  # fmt: skip
