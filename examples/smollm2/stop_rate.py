"""The stop rate of a published branch, measured with transformers alone: nothing of hubkit is imported.

    HF_ENDPOINT=http://127.0.0.1:8750 python stop_rate.py me/model main prompts.jsonl 192

Prints how many of the answers end with the end-of-turn token within that many tokens, and of how many.
"""

import json
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

repo, revision, prompts, limit = sys.argv[1:]
asked = [json.loads(line)["messages"] for line in Path(prompts).read_text(encoding="utf-8").splitlines()]
tokenizer = AutoTokenizer.from_pretrained(repo, revision=revision, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(repo, revision=revision)

inputs = tokenizer.apply_chat_template(
    asked, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
)
answers = model.generate(**inputs, max_new_tokens=int(limit), do_sample=False)[:, inputs["input_ids"].shape[1] :]
print(sum(tokenizer.eos_token_id in answer for answer in answers.tolist()), len(answers))
