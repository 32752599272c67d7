"""Folders of models in the shapes of real families: the files and keys that they have, with next to nothing in them.

    folder = write(tmp_path, SHAPES["Qwen2-VL, template of the processor"])

The keys are those of the published repos; the templates are short ones that write turns as theirs do.
"""

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

SHAPES: Mapping[str, Files] = {
    "Qwen2.5": QWEN,
    "Qwen2, without tokenizer.json": {
        **{name: item for name, item in QWEN.items() if name != "tokenizer.json"},
        "vocab.json": {f"w{number}": number for number in range(8)},
        "merges.txt": "#version: 0.2\n",
    },
    "Qwen1.5, added_tokens.json": {
        **QWEN,
        "tokenizer_config.json": {"eos_token": "<|im_end|>", "chat_template": CHATML},
        "tokenizer.json": tokenizer_json({}),
        "added_tokens.json": IM,
    },
    "Qwen2-VL, template of the processor": multimodal(
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl",
        {"eos_token_id": 12},
        IM,
        [12, 10],
        **{"chat_template.json": {"chat_template": PARTS}},
    ),
    "Qwen3-VL, without generation_config.json": multimodal(
        "Qwen3VLForConditionalGeneration",
        "qwen3_vl",
        {"eos_token_id": 12, "dtype": "bfloat16"},
        IM,
        12,
        template=CHATML,
        **{"generation_config.json": None},
    ),
    "LLaVA 1.5": multimodal(
        "LlavaForConditionalGeneration",
        "llava",
        {"model_type": "llama", "_name_or_path": "lmsys/vicuna-7b-v1.5"},
        S,
        2,
        template=None,
        **{
            "chat_template.json": {
                "chat_template": "{% for m in messages %}{% if m['role'] != 'assistant' %}{{ m['role'].upper() }}: "
                "{% endif %}{% for part in m['content'] | selectattr('type', 'equalto', 'image') %}<image>\n"
                "{% endfor %}"
                "{% if m['role'] != 'assistant' %}"
                "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}"
                "{{ part['text'] }} {% endfor %}{% else %}ASSISTANT: {% for part in m['content'] | "
                "selectattr('type', 'equalto', 'text') %}{% generation %}{{ part['text'] }}</s>{% endgeneration %}"
                "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
            },
            "processor_config.json": {"processor_class": "LlavaProcessor", "patch_size": 14},
        },
    ),
    "LLaVA-NeXT, template in processor_config.json": multimodal(
        "LlavaNextForConditionalGeneration",
        "llava_next",
        {},
        S,
        2,
        **{"processor_config.json": {"processor_class": "LlavaNextProcessor", "chat_template": INST}},
    ),
    "Gemma 3, text and images": multimodal(
        "Gemma3ForConditionalGeneration",
        "gemma3",
        {"vocab_size": 64},
        GEMMA,
        [1, 21],
        template=GEMMA_TURNS,
        tokenizer={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        **{
            "tokenizer.model": pieces(
                ("<pad>", 3),
                ("<eos>", 3),
                ("<bos>", 3),
                *((f"w{n}", 1) for n in range(17)),
                ("<start_of_turn>", 4),
                ("<end_of_turn>", 4),
            )
        },
    ),
    "Gemma 3 1B, an added token without a row": model(
        "Gemma3ForCausalLM",
        "gemma3_text",
        {**GEMMA, "<image_soft_token>": 64},
        template=GEMMA_TURNS,
        eos=[1, 21],
        tokenizer={"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    ),
    "Gemma 2, eos of the base in config.json": model(
        "Gemma2ForCausalLM", "gemma2", GEMMA, template=GEMMA_TURNS, eos=[1, 21], config={"eos_token_id": 1}
    ),
    "Llama 3.1": model(
        "LlamaForCausalLM",
        "llama",
        LLAMA3,
        template=LLAMA3_TURNS,
        eos=[21, 24],
        tokenizer={"eos_token": "<|eot_id|>", "bos_token": "<|begin_of_text|>"},
        **{"original/params.json": {"dim": 2}, "original/tokenizer.model": "IQ== 0\nIg== 1\n"},
    ),
    "Llama 3.1, padding with the end of turn": model(
        "LlamaForCausalLM",
        "llama",
        LLAMA3,
        template=LLAMA3_TURNS,
        eos=[24],
        tokenizer={"eos_token": "<|eot_id|>", "pad_token": "<|eot_id|>"},
    ),
    "Llama 4": multimodal(
        "Llama4ForConditionalGeneration",
        "llama4",
        {"eos_token_id": 21},
        LLAMA4,
        21,
        template=turns("<|header_start|>ROLE<|header_end|>\n\n", "<|eot|>", start="<|begin_of_text|>"),
    ),
    "Llama 2, only SentencePiece": {
        "config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32},
        "generation_config.json": {"eos_token_id": 2, "bos_token_id": 1},
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": INST,
        },
        "tokenizer.model": LLAMA_PIECES,
        "model.safetensors": weights(),
    },
    "Mistral with consolidated weights": {
        **MISTRAL,
        "consolidated.safetensors": weights(**{"tok_embeddings.weight": (4, 2)}),
        "params.json": {"dim": 2},
        "tokenizer.model.v3": LLAMA_PIECES,
    },
    "Mistral with tekken alone": {
        "config.json": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 64},
        "generation_config.json": {"eos_token_id": 2},
        "tekken.json": {"config": {"pattern": "x"}, "vocab": [{"rank": 0, "token_bytes": "AA=="}]},
        "model.safetensors": weights(),
    },
    "Mistral, its own format alone": {
        "params.json": {"dim": 2, "vocab_size": 64},
        "tekken.json": {"config": {}},
        "consolidated-00001-of-00002.safetensors": weights(),
        "consolidated-00002-of-00002.safetensors": weights(),
    },
    "Pixtral, content in parts": multimodal(
        "LlavaForConditionalGeneration",
        "llava",
        {"model_type": "mistral"},
        S,
        2,
        template=PARTS.replace("<|im_end|>\n", "</s>").replace("<|im_start|>", "[INST]"),
    ),
    "Phi-3": model(
        "Phi3ForCausalLM",
        "phi3",
        PHI,
        eos=[30, 31, 32],
        tokenizer={"eos_token": "<|endoftext|>"},
        config={"eos_token_id": 30, "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}},
        template=turns("<|ROLE|>\n", "<|end|>\n", after="<|endoftext|>"),
        **{"modeling_phi3.py": "raise SystemExit\n"},
    ),
    "Phi-4": model(
        "Phi3ForCausalLM",
        "phi3",
        {**IM, "<|im_sep|>": 13},
        eos=12,
        template=turns("<|im_start|>ROLE<|im_sep|>", "<|im_end|>"),
        tokenizer={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "DeepSeek-V3, FP8 in blocks": quantized(
        model(
            "DeepseekV3ForCausalLM",
            "deepseek_v3",
            DEEPSEEK,
            eos=21,
            template=turns(
                "<｜Assistant｜>",
                "{% if m['role'] == 'assistant' %}<｜end▁of▁sentence｜>{% endif %}",
                user="<｜User｜>",
                start="<｜begin▁of▁sentence｜>",
            ),
        ),
        {
            "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
            "num_nextn_predict_layers": 1,
            "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        },
        weights("F8_E4M3", **{"model.layers.0.mlp.up_proj.weight": (2, 2)}),
        **{"configuration_deepseek.py": "x = 1\n", "inference/model.py": "x = 1\n"},
    ),
    "DeepSeek-R1, thoughts left out of earlier turns": model(
        "Qwen2ForCausalLM",
        "qwen2",
        DEEPSEEK,
        eos=21,
        template="<｜begin▁of▁sentence｜>{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>"
        "{{ m['content'] }}{% elif m['role'] == 'assistant' %}<｜Assistant｜>{{ m['content'].split('</think>')[-1] }}"
        "<｜end▁of▁sentence｜>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
    ),
    "Falcon": model(
        "FalconForCausalLM",
        "falcon",
        {"<|endoftext|>": 11},
        eos=11,
        template=None,
        config={"auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"}, "alibi": False},
        **{"model.safetensors": weights(**{"transformer.word_embeddings.weight": (4, 2)})},
    ),
    "GPT-2, with every format it has": {
        "config.json": {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": 64,
            "eos_token_id": 50,
        },
        "generation_config.json": {"eos_token_id": 50},
        "vocab.json": {"<|endoftext|>": 50, "a": 0},
        "merges.txt": "a b\n",
        "tokenizer.json": tokenizer_json({"<|endoftext|>": 50}),
        "tokenizer_config.json": {"model_max_length": 1024},
        "64.tflite": b"TFL3",
        "flax_model.msgpack": b"\x81",
        "pytorch_model.bin": b"PK\x03\x04",
        "tf_model.h5": b"\x89HDF",
        "rust_model.ot": b"PK\x03\x04",
        "onnx/decoder_model.onnx": b"\x08\x07",
        "model.safetensors": weights("F32", **{"wte.weight": (4, 2)}),
    },
    "GPT-NeoX, Pythia": model("GPTNeoXForCausalLM", "gpt_neox", {"<|endoftext|>": 0}, eos=0, template=None),
    "T5": {
        "config.json": {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "is_encoder_decoder": True,
            "vocab_size": 64,
            "eos_token_id": 1,
            "task_specific_params": {},
        },
        "spiece.model": LLAMA_PIECES,
        "tokenizer_config.json": {"extra_ids": 100, "eos_token": "</s>"},
        "model.safetensors": weights("F32", **{"shared.weight": (4, 2)}),
    },
    "BART": {
        "config.json": {
            "architectures": ["BartForConditionalGeneration"],
            "model_type": "bart",
            "is_encoder_decoder": True,
            "vocab_size": 64,
        },
        "vocab.json": {"<s>": 0},
        "merges.txt": "",
        "model.safetensors": weights("F32"),
    },
    "Whisper": {
        "config.json": {
            "architectures": ["WhisperForConditionalGeneration"],
            "model_type": "whisper",
            "is_encoder_decoder": True,
            "vocab_size": 64,
        },
        "preprocessor_config.json": {"feature_extractor_type": "WhisperFeatureExtractor"},
        "generation_config.json": {"eos_token_id": 50, "alignment_heads": [[5, 3]]},
        "vocab.json": {"a": 0},
        "normalizer.json": {"a": "b"},
        "model.safetensors": weights("F16"),
    },
    "BERT": {
        "config.json": {"architectures": ["BertForMaskedLM"], "model_type": "bert", "vocab_size": 64},
        "vocab.txt": "[PAD]\n",
        "tokenizer_config.json": {"do_lower_case": True},
        "model.safetensors": weights("F32", **{"bert.embeddings.word_embeddings.weight": (4, 2)}),
    },
    "a classifier on a decoder": {
        **QWEN,
        "config.json": {
            "architectures": ["Qwen2ForSequenceClassification"],
            "model_type": "qwen2",
            "vocab_size": 64,
            "id2label": {"0": "bad"},
        },
    },
    "ViT": {
        "config.json": {"architectures": ["ViTForImageClassification"], "model_type": "vit", "id2label": {"0": "cat"}},
        "preprocessor_config.json": {"image_processor_type": "ViTImageProcessor"},
        "model.safetensors": weights("F32"),
    },
    "Mamba 2, Infinity in config.json": {
        "config.json": '{"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "vocab_size": 64, '
        '"time_step_limit": [0.0, Infinity]}',
        "tokenizer.json": tokenizer_json({"<|endoftext|>": 0}),
        "model.safetensors": weights(),
        "tokenizer_config.json": {"eos_token": "<|endoftext|>"},
        "generation_config.json": {"eos_token_id": 0},
    },
    "Mamba, sharded": {
        "config.json": {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "vocab_size": 64},
        "model-00001-of-00002.safetensors": weights(**{"backbone.embeddings.weight": (4, 2)}),
        "model-00002-of-00002.safetensors": weights(**{"backbone.norm_f.weight": (2,)}),
        "model.safetensors.index.json": {
            "metadata": {"total_size": 20},
            "weight_map": {
                "backbone.embeddings.weight": "model-00001-of-00002.safetensors",
                "backbone.norm_f.weight": "model-00002-of-00002.safetensors",
            },
        },
        "tokenizer.json": tokenizer_json({"<|endoftext|>": 0}),
        "tokenizer_config.json": {},
    },
    "GGUF alone": {"model-Q4_K_M.gguf": b"GGUF\x03\x00\x00\x00", "imatrix.dat": b"\x01\x00"},
    "GGUF with config.json": {
        "model-Q8_0.gguf": b"GGUF\x03\x00\x00\x00",
        "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    },
    "Command A, a closer of the content before that of the turn": model(
        "Cohere2ForCausalLM",
        "cohere2",
        COMMAND,
        eos=22,
        tokenizer={"eos_token": "<|END_OF_TURN_TOKEN|>"},
        template=turns(
            "<|START_OF_TURN_TOKEN|><|START_RESPONSE|>",
            "{% if m['role'] == 'assistant' %}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>",
            user="<|START_OF_TURN_TOKEN|>",
        ),
    ),
    "GLM-4, an answer ends where the user's turn opens": model(
        "GlmForCausalLM",
        "glm",
        GLM,
        eos=[20, 23, 25],
        tokenizer={"eos_token": "<|endoftext|>"},
        template=turns("<|ROLE|>\n", "", start="[gMASK]<sop>"),
    ),
    "gpt-oss, MXFP4": quantized(
        model(
            "GptOssForCausalLM",
            "gpt_oss",
            HARMONY,
            eos=[20, 25],
            tokenizer={"eos_token": "<|return|>"},
            template="{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final"
            "{% endif %}<|message|>{{ m['content'] }}{% if m['role'] == 'assistant' and loop.last %}<|return|>"
            "{% else %}"
            "<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ),
        {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}},
        weights("U8", **{"model.layers.0.mlp.experts.down_proj_blocks": (2, 2)}),
        **{"original/config.json": {"vocab_size": 64}, "original/model.safetensors": weights()},
    ),
    "an adapter of gpt2": {
        "adapter_config.json": {**ADAPTER, "base_model_name_or_path": "gpt2"},
        "adapter_model.safetensors": weights(),
    },
    "an adapter as axolotl leaves it": {
        **{name: item for name, item in QWEN.items() if name != "model.safetensors"},
        "adapter_config.json": {**ADAPTER, "base_model_name_or_path": "Qwen/Qwen2.5-0.5B"},
        "adapter_model.safetensors": weights(),
    },
    "an adapter as a pickle": {
        "adapter_config.json": {**ADAPTER, "base_model_name_or_path": "me/base"},
        "adapter_model.bin": b"PK\x03\x04",
    },
    "sentence-transformers": {
        "config.json": {"architectures": ["MPNetModel"], "model_type": "mpnet", "vocab_size": 64},
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}],
        "config_sentence_transformers.json": {"__version__": {}},
        "1_Pooling/config.json": {"pooling_mode_cls_token": False},
        "vocab.txt": "<s>\n",
        "model.safetensors": weights("F32"),
        "sentence_bert_config.json": {"max_seq_length": 384},
    },
    "diffusers": {
        "model_index.json": {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"]},
        "unet/config.json": {"_class_name": "UNet2DConditionModel"},
        "unet/diffusion_pytorch_model.safetensors": weights("F16"),
        "text_encoder/config.json": {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"},
        "text_encoder/model.fp16.safetensors": weights("F16"),
        "sd_xl_base_1.0.safetensors": weights("F16"),
        "tokenizer/vocab.json": {"a": 0},
        "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler"},
    },
    "a LoRA of diffusers": {"pytorch_lora_weights.safetensors": weights("F16")},
    "timm": {
        "config.json": {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": {"tag": "a1_in1k"}},
        "model.safetensors": weights("F32"),
    },
    "GPTQ": quantized(QWEN, {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, PACKED),
    "GPTQ, as AutoGPTQ saved it": {
        **{name: item for name, item in QWEN.items() if name != "model.safetensors"},
        "quantize_config.json": {"bits": 4, "group_size": 128, "model_file_base_name": "model"},
        "gptq_model-4bit-128g.safetensors": PACKED,
    },
    "AWQ": quantized(
        QWEN, {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}, "dtype": "float16"}, PACKED
    ),
    "bitsandbytes NF4": quantized(
        QWEN,
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
        weights("U8", **{"model.layers.0.mlp.up_proj.weight": (4, 1)}),
    ),
    "FP8 of compressed-tensors": quantized(
        QWEN,
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
        weights("F8_E4M3"),
        **{"recipe.yaml": "quant_stage:\n  quant_modifiers: {}\n"},
    ),
    "NVFP4 of ModelOpt": {
        **QWEN,
        "hf_quant_config.json": {"quantization": {"quant_algo": "NVFP4"}},
        "model.safetensors": weights("U8"),
    },
    "MLX 4 bits": quantized(QWEN, {"quantization": {"group_size": 64, "bits": 4}}, PACKED),
    "open_clip": {
        "open_clip_config.json": {"model_cfg": {}},
        "open_clip_model.safetensors": weights("F32"),
        "tokenizer.json": tokenizer_json({}),
        "vocab.json": {"a": 0},
    },
    "a tokenizer of its own code": {
        "config.json": {
            "architectures": ["KimiForCausalLM"],
            "model_type": "kimi",
            "vocab_size": 64,
            "eos_token_id": 12,
            "auto_map": {"AutoModelForCausalLM": "modeling_kimi.KimiForCausalLM"},
        },
        "tokenization_kimi.py": "x = 1\n",
        "tiktoken.model": "IQ== 0\n",
        "modeling_kimi.py": "x = 1\n",
        "generation_config.json": {"eos_token_id": 12},
        "model.safetensors": weights(),
        "tokenizer_config.json": {
            "eos_token": "<|im_end|>",
            "chat_template": CHATML,
            "added_tokens_decoder": decoder(IM),
        },
    },
    "Jamba, weights in two dtypes": model(
        "JambaForCausalLM", "jamba", {"<|bom|>": 20, "<|eom|>": 21}, eos=21, template=turns("<|bom|>ROLE ", "<|eom|>")
    ),
    "templates by name": model(
        "LlamaForCausalLM",
        "llama",
        LLAMA3,
        eos=24,
        template=None,
        tokenizer={"chat_template": [{"name": "default", "template": LLAMA3_TURNS}, {"name": "rag", "template": "x"}]},
    ),
}
"""By name. No library refuses any of them, so that `hubkit check` has no error to report."""
