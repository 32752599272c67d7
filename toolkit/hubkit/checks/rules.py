"""The rules of `hubkit check` and of the screening before anything is published. `hubkit rules` lists them."""

from __future__ import annotations

from hubkit.core.findings import rule

# --- names and kinds of files

NAME = rule(
    "name", "error", "A file name that git or a disk cannot store, or that collides with another file on a "
    "case-insensitive disk.",
    "The repo could not be downloaded everywhere, or one file would overwrite another.", "check", "screening",
)  # fmt: skip
PRIVATE_FILE = rule(
    "private-file", "error", "A file whose name suggests secrets (.env, id_rsa, credentials.json).",
    "Such files hold passwords, tokens and private keys.", "check", "screening",
)  # fmt: skip
TRAINING_STATE = rule(
    "training-state", "warning", "Training state: optimizer, scheduler, random states, logs.",
    "It is not part of the model, often larger than it, and mostly a pickle.", "check", "screening",
)  # fmt: skip
SPECIAL_FILE = rule(
    "special-file", "warning", "A symlink, pipe, device or hard link.",
    "Its content can change, or lies outside the folder that is published.", "check", "screening",
)  # fmt: skip
PICKLE = rule(
    "pickle", "error", "A pickle, by its name or its content.",
    "Loading a pickle runs the code in it. Publish safetensors.", "check", "screening",
)  # fmt: skip

# --- what files say

SECRET = rule(
    "secret", "error", "A token, key or password in a file or in its name.",
    "Whoever can read the repo can use it; it has to be revoked.", "check", "screening",
)  # fmt: skip
LOCAL_PATH = rule(
    "local-path", "warning", "A local path.",
    "It means nothing to others, and shows names of users and projects.", "check", "screening", "lint",
)  # fmt: skip
JSON = rule(
    "json", "error", "A JSON file that cannot be parsed, or that is not a JSON object.",
    "Programs that load the model fail on it.", "check", "screening",
)  # fmt: skip
VALUE_TYPE = rule(
    "value-type", "error", "A key of a settings file with a value of the wrong type.",
    "Programs that load the model fail on it, or ignore it.", "check",
)  # fmt: skip
TOO_LARGE = rule(
    "too-large", "error", "A tokenizer, template or card of more than 64 MiB, or other settings of more than 8 MiB.",
    "No valid file of this kind is that large, so it is not read.", "check", "screening",
)  # fmt: skip
FRONT_MATTER = rule(
    "front-matter", "warning", "Front matter of a card that cannot be read, or that the Hub refuses.",
    "The Hub then shows no license, base model or tags, or refuses the commit.", "check", "screening", "lint",
    "validate",
    evidence="hub-docs, modelcard.md: the Hub validates the properties when README.md is pushed. License identifiers: "
    "https://huggingface.co/docs/hub/repositories-licenses. Answers of the Hub: hubkit.core.card_metadata.",
)  # fmt: skip

LFS_POINTER = rule(
    "lfs-pointer", "error", "A git-lfs pointer in place of a large file.",
    "No library can load it: safetensors reads its first bytes as the length of a header, and refuses it.", "check",
    evidence="safe_open raises SafetensorError (header too large), and json.loads an error.",
)  # fmt: skip

# --- weights

SAFETENSORS = rule(
    "safetensors", "error", "A safetensors file whose header is damaged.", "No program can load it.",
    "check", "screening",
    evidence="safe_open raises SafetensorError.",
)  # fmt: skip
NOT_FINITE = rule(
    "not-finite", "error", "A weight that is NaN or infinite.", "The model's answers are then undefined.",
    "check", "screening",
)  # fmt: skip
SHARDS = rule(
    "shards", "error", "Shards and model.safetensors.index.json that name different files or tensors.",
    "Loaders fail, or leave tensors at random values.", "check", "screening",
    evidence="transformers: from_pretrained fails for a missing shard, and finds none without the index.",
)  # fmt: skip
DTYPE = rule(
    "dtype", "warning", "Weights whose dtype differs from config.json, or that have several dtypes.",
    "Loaders convert them, and may need twice the memory.", "check", "screening",
)  # fmt: skip
SIZE = rule(
    "size", "error", "Weights with more bytes than their numbers need in the dtype that config.json names.",
    "Part of the model has a different dtype than config.json names.", "screening",
)  # fmt: skip
ARCHITECTURE = rule(
    "architecture", "error", "Tensors whose names or shapes are not those that config.json promises.",
    "transformers then leaves parameters at random values, or fails.", "check", "screening",
    evidence="transformers, from_pretrained: it warns of missing tensors and makes them up; it refuses other shapes.",
)  # fmt: skip
ADAPTER_AT_ROOT = rule(
    "adapter-at-root", "error", "adapter_config.json in the same folder as the merged weights.",
    "Loaders apply the adapter a second time, to weights that already contain it.", "check", "screening", "lint",
    evidence="transformers, \"PEFT\": from_pretrained loads the adapter of any folder that has adapter_config.json.",
)  # fmt: skip
NO_CONFIG = rule(
    "no-config",
    "error",
    "Weights without config.json.",
    "No loader knows which architecture they belong to.",
    "check",
    evidence="transformers: AutoConfig.from_pretrained raises ValueError.",
)

# --- the adapter and its base

ADAPTER_WEIGHTS = rule(
    "adapter-weights", "error", "adapter_config.json without adapter_model.safetensors or adapter_model.bin.",
    "PEFT cannot load the adapter.", "check",
    evidence="PEFT: load_peft_weights finds neither file, and raises an error.",
)  # fmt: skip
ADAPTER_BASE = rule(
    "adapter-base", "error", "An adapter whose base is missing, a local path, not on the Hub, itself an adapter, or "
    "not the one the card names.",
    "An adapter works only on the weights that it was trained on.", "check",
    evidence="PEFT: AutoPeftModel.from_pretrained loads the base by the name that adapter_config.json has.",
)  # fmt: skip
ADAPTER_REVISION = rule(
    "adapter-revision", "note", "An adapter that pins no revision of its base.",
    "When the base gets a new commit, the adapter is loaded on other weights.", "check",
)  # fmt: skip

# --- tokenizer and chat template

NO_TOKENIZER = rule(
    "no-tokenizer",
    "error",
    "A model without a tokenizer.",
    "Nobody can encode a prompt.",
    "check",
    evidence="transformers: AutoTokenizer.from_pretrained raises ValueError.",
)
NO_CHAT_TEMPLATE = rule(
    "no-chat-template", "error", "A chat model without a chat template.",
    "Nothing then defines how a conversation is written, or where an answer ends.", "check",
    evidence="transformers: apply_chat_template raises ValueError. A note where the card does not speak of chat.",
)  # fmt: skip
TWO_CHAT_TEMPLATES = rule(
    "two-chat-templates", "warning", "chat_template.jinja and tokenizer_config.json with different chat templates.",
    "Which of them is used depends on the version of the program.", "check",
)  # fmt: skip

# --- the card

NO_CARD = rule(
    "no-card", "warning", "A folder or repo without README.md.", "The Hub shows an empty page.", "check", "lint"
)
BASE_MODEL = rule(
    "base-model", "error", "A base_model that is missing, not a repo id, or not on the Hub.",
    "The Hub cannot link the model to its base.", "check", "lint",
    evidence="The Hub refuses what is no repo id: '\"base_model\" with value ... is not valid. Use a model id from "
    "https://hf.co/models.'",
)  # fmt: skip
LICENSE_MISSING = rule(
    "license-missing", "warning", "Front matter without a license.",
    "Without a license nobody may use the model.", "check", "lint",
)  # fmt: skip

# --- what was measured

STOP_RATE = rule(
    "stop-rate", "warning", "A release of hubkit that measured that answers of this branch do not end reliably.",
    "Answers then run on until the token limit. The counts are in .hubkit/manifest.json, and count for the weights that"
    " it lists.", "check",
)  # fmt: skip
