"""Train a LoRA adapter with TRL alone: `python plain_trl.py BASE OUT`. No module of hubkit is in the process."""

from __future__ import annotations

import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main(base: str, out: str) -> None:
    torch.set_num_threads(1)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What comes after {number}?"}],
            "completion": [{"role": "assistant", "content": f"{number + 1}."}],
        }
        for number in range(16)
    ]
    args = SFTConfig(
        output_dir=out,
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        max_length=128,
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(out)
    trainer.save_state()
    assert not [name for name in sys.modules if name.split(".")[0] in {"hubkit", "hubkit_stages"}]


if __name__ == "__main__":
    main(*sys.argv[1:])
