"""Folders in the shapes of what is no chat model of transformers: other tasks, adapters, quantized and other files."""

from __future__ import annotations

from collections.abc import Mapping

from model_parts import (
    ADAPTER,
    LLAMA_PIECES,
    PACKED,
    QWEN,
    Files,
    quantized,
    tokenizer_json,
    weights,
)

OTHERS: Mapping[str, Files] = {
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
    "GGUF alone": {"model-Q4_K_M.gguf": b"GGUF\x03\x00\x00\x00", "imatrix.dat": b"\x01\x00"},
    "GGUF with config.json": {
        "model-Q8_0.gguf": b"GGUF\x03\x00\x00\x00",
        "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    },
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
}
