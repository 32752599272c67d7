"""DPO trainers of small models, and rows for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from architectures import ARCHITECTURES, make_tokenizer

from hubkit.training.pairs.store import Store
from hubkit.training.pairs.trainer import saving_trainer

VOCABULARY = 64
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def rows_of(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Pairs of many lengths; some answers begin alike, in some one is the start of the other."""
    draw = random.Random(seed)

    def ids(least: int, most: int) -> list[int]:
        return [draw.randrange(5, VOCABULARY) for _ in range(draw.randint(least, most))]

    rows = [{"prompt_ids": ids(3, 14), "chosen_ids": ids(1, 12), "rejected_ids": ids(1, 12)} for _ in range(count)]
    rows[1]["rejected_ids"] = [*rows[1]["chosen_ids"][:2], 7, 8]
    rows[2]["rejected_ids"] = [*rows[2]["chosen_ids"], 9]
    return rows


def llama(**given: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **HEADS, **given}))


def trainer_of(folder: Path, model: Any = None, kind: Any = None, store: Store | None = None, **args: Any) -> Any:
    """A trainer of ``kind`` (ours) of ``model`` on 24 rows, with an adapter that is not the reference any more."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig

    reference = args.pop("ref_model", None)
    given = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": 24}
    given |= {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no", "disable_tqdm": True}
    torch.manual_seed(0)
    tokenizer = make_tokenizer(ARCHITECTURES["smollm"])
    tokenizer.pad_token = tokenizer.eos_token
    folder.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", bias=args.pop("bias", "none"))
    trainer = (kind or saving_trainer(store, folder, lambda figure, share: said.append(figure)))(
        model=model if model is not None else llama(),
        ref_model=reference,
        args=DPOConfig(output_dir=str(folder / "out"), **{**given, **args}),
        train_dataset=Dataset.from_list(rows_of(24)),
        processing_class=tokenizer,
        peft_config=lora if reference is None and not hasattr(model, "peft_config") else None,
    )
    trainer.said = said
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad and ("lora_B" in name or reference is not None):
            weight.data += 0.05 * torch.randn_like(weight)
    return trainer
