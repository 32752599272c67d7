"""What the folders of small models are made of: weights without content, tokenizers, chat templates, settings."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CARD = "---\nlicense: apache-2.0\nbase_model: me/base\n---\n# Model\n"
Files = Mapping[str, Any]
"""Files by path: bytes, a text, or what is written as JSON."""


def weights(dtype: str = "BF16", **shapes: Sequence[int]) -> bytes:
    """A safetensors file with zeros; without ``shapes``, of one tensor."""
    sizes = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1, "I32": 4, "F8_E4M3": 1}
    header, place = {}, 0
    for name, shape in (shapes or {"model.embed_tokens.weight": (4, 2)}).items():
        count = 1
        for side in shape:
            count *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + count * sizes[dtype]]}
        place += count * sizes[dtype]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(place)


def write(folder: Path, files: Files) -> Path:
    """Write ``files`` into ``folder``, with a card unless they have one."""
    for path, content in {"README.md": CARD, **files}.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def turns(
    opening: str, closing: str, *, user: str | None = None, start: str = "", prompt: str | None = None, after: str = ""
) -> str:
    """A chat template: ``opening`` with ROLE in it, the content, ``closing``. ``user`` opens the user's turn alone."""
    role = "{{ m['role'] }}"
    first = opening.replace("ROLE", role)
    if user is not None:
        first = "{% if m['role'] == 'user' %}" + user + "{% else %}" + opening.replace("ROLE", role) + "{% endif %}"
    end = opening.replace("ROLE", "assistant") if prompt is None else prompt
    tail = "{% if add_generation_prompt %}" + end + "{% else %}" + after + "{% endif %}"
    return start + "{% for m in messages %}" + first + "{{ m['content'] }}" + closing + "{% endfor %}" + tail


CHATML = turns("<|im_start|>ROLE\n", "<|im_end|>\n")
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}{% if part['type'] == 'image' %}"
    "<|image_pad|>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_json(special: Mapping[str, int], words: int = 8) -> dict[str, Any]:
    """A tokenizer.json of ``words`` ordinary tokens and the added tokens ``special``."""
    return {
        "added_tokens": [{"id": number, "content": text, "special": True} for text, number in special.items()],
        "model": {"type": "BPE", "vocab": {f"w{number}": number for number in range(words)}, "merges": []},
    }


def decoder(special: Mapping[str, int]) -> dict[str, Any]:
    """``added_tokens_decoder`` of a tokenizer_config.json."""
    return {str(number): {"content": text, "special": True} for text, number in special.items()}


def pieces(*texts: tuple[str, int]) -> bytes:
    """A SentencePiece model: (text, type) of each piece; 1 is ordinary, 2 unknown, 3 control, 4 user-defined."""
    made = bytearray()
    for text, kind in texts:
        word = text.encode()
        body = b"\x0a" + bytes([len(word)]) + word + b"\x15" + struct.pack("<f", -1.0) + b"\x18" + bytes([kind])
        made += b"\x0a" + bytes([len(body)]) + body
    return bytes(made) + b"\x12\x02\x18\x10"  # the trainer's settings, which are not read


LLAMA_PIECES = pieces(("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"w{number}", 1) for number in range(29)))


def model(
    architecture: str,
    kind: str,
    special: Mapping[str, int],
    *,
    template: str | None,
    eos: int | list[int],
    rows: int = 64,
    generation: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The files of a text model: settings, a tokenizer.json with ``special`` tokens, a template, weights.

    ``more`` are further files; a name with ``None`` is left out.
    """
    named = {
        "eos_token": next(text for text, number in special.items() if number in ([eos] if type(eos) is int else eos))
    }  # type: ignore[operator]
    settings = {"architectures": [architecture], "model_type": kind, "vocab_size": rows, "eos_token_id": eos}
    files = {
        "config.json": {**settings, "dtype": "bfloat16", **(config or {})},
        "generation_config.json": {"eos_token_id": eos, **(generation or {})},
        "tokenizer_config.json": {
            **named,
            "added_tokens_decoder": decoder(special),
            "chat_template": template,
            **(tokenizer or {}),
        },
        "tokenizer.json": tokenizer_json(special),
        "model.safetensors": weights(),
        **more,
    }
    return {path: content for path, content in files.items() if content is not None}


IM = {"<|endoftext|>": 10, "<|im_start|>": 11, "<|im_end|>": 12}
LLAMA3 = {
    "<|begin_of_text|>": 20,
    "<|end_of_text|>": 21,
    "<|start_header_id|>": 22,
    "<|end_header_id|>": 23,
    "<|eot_id|>": 24,
}
LLAMA3_TURNS = turns("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>", start="<|begin_of_text|>")
LLAMA4 = {"<|begin_of_text|>": 20, "<|eot|>": 21, "<|header_start|>": 22, "<|header_end|>": 23, "<|image|>": 24}
GEMMA = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<start_of_turn>": 20, "<end_of_turn>": 21}
GEMMA_TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
    "{% set role = m['role'] %}{% endif %}<start_of_turn>{{ role }}\n{% if m['content'] is string %}"
    "{{ m['content'] | trim }}{% else %}{% for part in m['content'] %}{{ part['text'] | trim }}{% endfor %}{% endif %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
S = {"<unk>": 0, "<s>": 1, "</s>": 2}
PHI = {"<|endoftext|>": 30, "<|assistant|>": 31, "<|end|>": 32, "<|user|>": 33, "<|system|>": 34}
COMMAND = {
    "<EOS_TOKEN>": 20,
    "<|START_OF_TURN_TOKEN|>": 21,
    "<|END_OF_TURN_TOKEN|>": 22,
    "<|START_RESPONSE|>": 23,
    "<|END_RESPONSE|>": 24,
}
GLM = {"<|endoftext|>": 20, "[gMASK]": 21, "<sop>": 22, "<|user|>": 23, "<|assistant|>": 24, "<|observation|>": 25}
HARMONY = {"<|return|>": 20, "<|channel|>": 21, "<|message|>": 22, "<|start|>": 23, "<|end|>": 24, "<|call|>": 25}
DEEPSEEK = {"<｜begin▁of▁sentence｜>": 20, "<｜end▁of▁sentence｜>": 21, "<｜User｜>": 22, "<｜Assistant｜>": 23}
QWEN = model("Qwen2ForCausalLM", "qwen2", IM, template=CHATML, eos=[12, 10])
MISTRAL = model("MistralForCausalLM", "mistral", S, template=INST, eos=2)


def multimodal(
    architecture: str, kind: str, text: Mapping[str, Any], special: Mapping[str, int], eos: int | list[int], **more: Any
) -> dict[str, Any]:
    """The files of a model for text and images whose text settings are in ``text_config``."""
    files = model(architecture, kind, special, eos=eos, template=more.pop("template", None), **more)
    settings = {"architectures": [architecture], "model_type": kind, "image_token_id": 3}
    return {
        **files,
        "config.json": {**settings, "text_config": {"vocab_size": 64, **text}, "vision_config": {"depth": 1}},
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor"},
    }


def quantized(base: Files, settings: Mapping[str, Any], data: bytes, **more: Any) -> dict[str, Any]:
    """The files of ``base`` with packed weights, as ``settings`` in config.json say; ``more`` are further files."""
    return {**base, "config.json": {**base["config.json"], **settings}, "model.safetensors": data, **more}


PACKED = weights("I32", **{"model.layers.0.self_attn.q_proj.qweight": (2, 2)})
ADAPTER = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "target_modules": ["q_proj"], "revision": None}
NO_CHAT: dict[str, Any] = {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}
