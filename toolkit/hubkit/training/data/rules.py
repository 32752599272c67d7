"""The rules about training data; a stage's ``accept`` names them. `hubkit rules` lists them."""

from __future__ import annotations

from hubkit.core.findings import rule

NO_ROWS = rule(
    "no-rows", "error", "A dataset, or an entry of `data`, without a row to train on.", "There is nothing to train.",
    "data", "preflight",
)  # fmt: skip
DROPPED_ROWS = rule(
    "dropped-rows", "warning", "Rows that cannot be trained on; an error when they are many.",
    "A mapping that does not fit the dataset drops nearly all of its rows.", "data", "preflight",
)  # fmt: skip
MOVED_SYSTEM = rule(
    "moved-system", "note", "System messages that the chat template refuses, moved into the first question.",
    "The text is trained as part of the question; at inference it belongs there too.", "data", "preflight",
)  # fmt: skip
FEWER_ROWS = rule(
    "fewer-rows", "warning", "A dataset with fewer usable rows than the recipe asks for.",
    "The stage trains on less than was planned.", "data", "preflight",
)  # fmt: skip
OVERLAP = rule(
    "overlap", "note", "Held-out prompts that are also in other entries of `data`.",
    "They are not held out: no prompt is both trained on and measured.", "data", "preflight",
)  # fmt: skip
TOO_FEW_PROMPTS = rule(
    "too-few-prompts", "error", "An entry of `data` with fewer prompts to hold out than the gate needs.",
    "The stop rate would be measured on too few answers.", "data", "preflight",
)  # fmt: skip
TRUNCATED_EOS = rule(
    "truncated-end-of-turn", "warning", "Answers whose end-of-turn token max_length cuts off; an error when many.",
    "A model trained this way will not learn to stop.", "data", "preflight",
)  # fmt: skip
OPEN_TURNS = rule(
    "open-turns", "error", "Answers that do not end with exactly one end-of-turn token.",
    "The model learns to end its answers twice, or not at all.", "data", "preflight",
)  # fmt: skip
LONG_PROMPTS = rule(
    "long-prompts", "warning", "Prompts that fill max_length.", "Nothing of the answer is left to train on.",
    "data", "preflight",
)  # fmt: skip
BENCHMARK_OVERLAP = rule(
    "benchmark-overlap", "warning", "Questions of a benchmark in the training data; an error when they are many.",
    "The model has seen them with their answers, so the benchmark does not show what it can do.", "data", "preflight",
)  # fmt: skip
