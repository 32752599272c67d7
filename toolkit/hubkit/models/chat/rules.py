"""The rules about chat templates and the end-of-turn token (EOS). `hubkit rules` lists them."""

from __future__ import annotations

from hubkit.core.findings import rule

TEMPLATE_FAILS = rule(
    "template-fails", "error", "A chat template that cannot be rendered, loses text, or does not end an answer.",
    "The model is then trained and prompted with changed conversations.", "check", "preflight",
)  # fmt: skip
TEMPLATE_SYSTEM = rule(
    "template-system", "note", "A chat template that refuses or changes a system message.",
    "Programs that send one fail, or the model does not see it.", "check", "preflight",
)  # fmt: skip
TEMPLATE_PREFIX = rule(
    "template-prefix", "warning", "A prompt that is not the beginning of the rendered conversation.",
    "Prompts at inference then differ from the text seen in training.", "check", "preflight",
)  # fmt: skip
TEMPLATE_DATE = rule(
    "template-date", "note", "A chat template that inserts today's date.",
    "Prompts then differ from those in training.", "check", "preflight",
)  # fmt: skip
TEMPLATE_PARTS = rule(
    "template-parts", "note", "A chat template that takes content only as a list of parts.",
    "Programs that send a string, as most clients of text models do, get an empty message or an error.", "check",
)  # fmt: skip
TEMPLATE_CHOICE = rule(
    "template-choice", "note", "A base model with several chat templates, of which one is used.",
    "The others are not trained.", "preflight",
)  # fmt: skip
UNKNOWN_TOKENS = rule(
    "template-tokens", "warning", "A chat template whose control tokens the tokenizer does not have.",
    "The model reads them as ordinary text, split into several tokens.", "preflight",
)  # fmt: skip
EOS_GENERATION = rule(
    "eos-generation", "error", "An end-of-turn token that is not in eos_token_id of generation_config.json.",
    "Generation does not stop at the end of the answer.", "check", "preflight",
    evidence="transformers: generate() stops at the ids of eos_token_id alone.",
)  # fmt: skip
EOS_CONFIG = rule(
    "eos-config", "warning", "An end-of-turn token that is not in eos_token_id of config.json.",
    "Programs that read only config.json do not stop at the end of the answer.", "check", "preflight",
)  # fmt: skip
EOS_TOKENIZER = rule(
    "eos-tokenizer", "note", "A tokenizer whose eos_token is not the end-of-turn token.",
    "Programs that stop at the tokenizer's eos_token alone do not stop at the end of the answer.", "check", "preflight",
)  # fmt: skip
EOS_PADDING = rule(
    "eos-padding", "error", "A padding token that is the end-of-turn token.",
    "A trainer that masks padding never trains the model to stop.", "check", "preflight",
)  # fmt: skip
VOCABULARY = rule(
    "vocabulary", "error", "A tokenizer with more ids than the model has embeddings.",
    "Such an id ends the program with an error.", "check", "preflight",
    evidence="torch: an embedding raises IndexError for an id that it has no row for.",
)  # fmt: skip
