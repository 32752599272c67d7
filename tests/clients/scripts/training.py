"""transformers, peft and trl push what they made, and load it again: shards, an adapter, checkpoints."""

import json
from pathlib import Path

import torch
from datasets import Dataset
from huggingface_hub import HfApi
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    pipeline,
)
from trl import SFTConfig, SFTTrainer

api = HfApi()
letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
words = Tokenizer(models.BPE(vocab=letters, merges=[]))
words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
shape = {"vocab_size": 261, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, pad_token_id=258, eos_token_id=257))

# --- transformers: a sharded model, its tokenizer, a branch, a pull request
base = "hubkit/base"
model.push_to_hub(base, private=True, max_shard_size="50KB", commit_message="Weights")
tokenizer.push_to_hub(base)
names = api.list_repo_files(base)
assert sum(name.endswith(".safetensors") for name in names) > 1 and "model.safetensors.index.json" in names
assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= set(names)
loaded = AutoModelForCausalLM.from_pretrained(base)
assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
assert AutoTokenizer.from_pretrained(base).chat_template == tokenizer.chat_template
api.create_branch(base, branch="wide")
AutoConfig.from_pretrained(base, max_position_embeddings=99).push_to_hub(base, revision="wide")
assert AutoConfig.from_pretrained(base, revision="wide").max_position_embeddings == 99
assert AutoConfig.from_pretrained(base).max_position_embeddings != 99
GenerationConfig(max_new_tokens=3).push_to_hub(base, create_pr=True)
assert GenerationConfig.from_pretrained(base, revision="refs/pr/1").max_new_tokens == 3
told = pipeline("text-generation", base, max_new_tokens=2)("ab", return_full_text=False)
assert isinstance(told[0]["generated_text"], str)

# --- peft: an adapter that names its base
adapted = get_peft_model(loaded, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
adapted.push_to_hub("hubkit/adapter", private=True)
assert set(api.list_repo_files("hubkit/adapter")) >= {"adapter_config.json", "adapter_model.safetensors"}
again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "hubkit/adapter")
whole = AutoPeftModelForCausalLM.from_pretrained("hubkit/adapter")
ids = torch.arange(10)[None]
with torch.no_grad():
    assert torch.equal(adapted(ids).logits, again(ids).logits) and torch.equal(again(ids).logits, whole(ids).logits)

# --- trl: pushes while it trains, its last checkpoint among them, and a model card at the end
rows = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * n}]} for n in range(1, 9)
]
trainer = SFTTrainer(
    model=base,
    args=SFTConfig(
        output_dir="out", hub_model_id="hubkit/trained", push_to_hub=True, hub_strategy="checkpoint",
        hub_private_repo=True, hub_always_push=True, save_steps=1, max_steps=2, per_device_train_batch_size=2,
        report_to="none", max_length=32, logging_steps=1, use_cpu=True,
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(base),
    peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
)  # fmt: skip
trainer.train()
trainer.push_to_hub(dataset_name="hubkit/rows")
names = api.list_repo_files("hubkit/trained")
assert {"adapter_model.safetensors", "training_args.bin", "README.md", "last-checkpoint/trainer_state.json"} <= set(
    names
)
assert {"last-checkpoint/optimizer.pt", "last-checkpoint/adapter_model.safetensors"} <= set(names)
assert api.model_info("hubkit/trained").private
state = Path(api.hf_hub_download("hubkit/trained", "last-checkpoint/trainer_state.json")).read_text()
assert json.loads(state)["global_step"] == 2
titles = [commit.title for commit in api.list_repo_commits("hubkit/trained")]
assert "Training in progress, step 1" in titles and "End of training" in titles, titles
card = api.model_info("hubkit/trained")
assert card.card_data.base_model == base and "trl" in (card.tags or []), card
trained, kept = AutoPeftModelForCausalLM.from_pretrained("hubkit/trained"), get_peft_model_state_dict(trainer.model)
for name, tensor in get_peft_model_state_dict(trained).items():
    assert torch.equal(tensor, kept[name].to(tensor.dtype)), name
