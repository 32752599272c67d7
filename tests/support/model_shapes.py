"""Folders of models in the shapes of real families: the files and keys that they have, with next to nothing in them.

    folder = write(tmp_path, SHAPES["Qwen2-VL, template of the processor"])

The keys are those of the published repos; the templates are short ones that write turns as theirs do.
"""

from __future__ import annotations

from collections.abc import Mapping

from model_parts import (
    CHATML,
    COMMAND,
    DEEPSEEK,
    GEMMA,
    GEMMA_TURNS,
    GLM,
    HARMONY,
    IM,
    INST,
    LLAMA3,
    LLAMA3_TURNS,
    LLAMA4,
    LLAMA_PIECES,
    MISTRAL,
    PARTS,
    PHI,
    QWEN,
    Files,
    S,
    decoder,
    model,
    multimodal,
    pieces,
    quantized,
    tokenizer_json,
    turns,
    weights,
)
from other_model_shapes import OTHERS

CHAT: Mapping[str, Files] = {
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
"""Models that transformers loads and that are talked with."""
SHAPES = {**CHAT, **OTHERS}
"""By name. No library refuses any of them, so that `hubkit check` has no error to report."""
