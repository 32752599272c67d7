"""What somebody does who has never heard of hubkit: load both revisions with the Hugging Face libraries alone.

Run in a process of its own with nothing of ours in the environment but HF_ENDPOINT. Reads a JSON request from
standard input {repo, base, revisions, prompts, max_new_tokens, end_of_turn} and prints a JSON answer.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def ask(request: dict[str, Any], revision: str) -> dict[str, Any]:
    """Load ``revision`` in both published forms, let it answer, compare the two forms."""
    import torch
    from huggingface_hub import ModelCard, hf_hub_download
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    repo = request["repo"]
    tokenizer = AutoTokenizer.from_pretrained(repo, revision=revision)
    merged = AutoModelForCausalLM.from_pretrained(repo, revision=revision).eval()
    base = AutoModelForCausalLM.from_pretrained(request["base"], dtype=merged.dtype)
    adapted = PeftModel.from_pretrained(base, repo, subfolder="adapter", revision=revision).eval()
    chats = [[{"role": "user", "content": prompt}] for prompt in request["prompts"]]
    stopped, agree, total = 0, 0, 0
    answers = []
    for chat in chats:
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            out = merged.generate(**inputs, max_new_tokens=request["max_new_tokens"], do_sample=False)
            ours = merged(out).logits.argmax(-1)
            theirs = adapted(out).logits.argmax(-1)
        new = out[0, length:].tolist()
        stopped += request["end_of_turn"] in new
        agree += int((ours == theirs).sum())
        total += ours.numel()
        answers.append(tokenizer.decode(new, skip_special_tokens=True))
    # A card is read from main by default; this revision's own is read as a file.
    card = ModelCard.load(hf_hub_download(repo, "README.md", revision=revision)).data.to_dict()
    return {
        "stopped": stopped,
        "answers": answers,
        "agreement": agree / total,
        "dtype": str(merged.dtype),
        "generation_eos": merged.generation_config.eos_token_id,
        "rendered": tokenizer.apply_chat_template(
            [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
            add_generation_prompt=True,
            tokenize=False,
        ),
        "card": card,
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump({revision: ask(asked, revision) for revision in asked["revisions"]}, sys.stdout, default=str)
