"""The rules of `hubkit card lint`, each beside the file that implements it. `hubkit rules` lists them.

Rules that `hubkit check` applies too are in ``checks/rules.py``: front-matter, license-missing, base-model,
adapter-at-root, local-path and no-card.
"""

from __future__ import annotations

from hubkit.core.findings import rule

# --- front_matter.py

LICENSE_NAME = rule(
    "license-name", "note", "`license: other` without license_name.", "The Hub's page then shows only 'other'.",
    "lint",
)  # fmt: skip
LICENSE_MISMATCH = rule(
    "license-mismatch", "warning", "The license differs from the base model's.",
    "Most licenses of base models bind what is trained from them.", "lint",
)  # fmt: skip
BASE_RELATION = rule(
    "base-relation", "error", "A base_model_relation that does not match the files.",
    "The Hub lists the model under the wrong heading of its base's page.", "lint",
)  # fmt: skip

# --- averages.py, headings.py

AVERAGE = rule(
    "average", "error", "A stated average that is not the mean of its table, by any of the known rules.",
    "An average typed by hand goes stale when the scores change.", "lint",
)  # fmt: skip
TABLE_HEADING = rule(
    "table-heading", "warning", "A table of one benchmark suite under the heading of another.",
    "Readers take the scores for those of the suite that the heading names.", "lint",
)  # fmt: skip

# --- placeholders.py, scores_in_words.py, local_paths.py, links.py

PLACEHOLDER = rule(
    "placeholder", "warning", "A placeholder for a number: TBD, XX.X, pending.",
    "A published card should report measured values.", "lint",
)  # fmt: skip
SCORES_NOT_SHOWN = rule(
    "scores-not-shown", "warning", "A sentence that says scores fell, on a card without the scores of both models.",
    "Readers cannot tell how much was lost.", "lint",
)  # fmt: skip
DEAD_LINK = rule(
    "dead-link", "error", "A relative link or picture whose file does not exist.",
    "The Hub's page shows a broken picture or answers 404.", "lint",
)  # fmt: skip

# --- python_blocks.py

SNIPPET_SYNTAX = rule(
    "snippet-syntax", "error", "A Python block that is not valid Python.", "Nobody can run it.", "lint", "preflight"
)
UNDEFINED_NAME = rule(
    "undefined-name", "error", "A Python block that uses a name which no block before it defines.",
    "It ends with a NameError.", "lint", "preflight",
)  # fmt: skip
MODEL_NONE = rule(
    "model-none", "error", "A Python block that loads the model 'None'.",
    "TRL writes it when hub_model_id was not set. Nobody has a model of that name.", "lint",
)  # fmt: skip
GENERATION_PROMPT = rule(
    "generation-prompt", "error", "A prompt for generate() without add_generation_prompt=True.",
    "The model may continue the user's turn in place of answering.", "lint",
)  # fmt: skip
TEMPLATE_RESULT = rule(
    "template-result", "error", "The result of apply_chat_template passed to generate() as the wrong type.",
    "It is a tensor before transformers 5 and a mapping since; return_dict=True works with both.", "lint",
)  # fmt: skip

# --- chat_template.py

TEMPLATE_MISSING = rule(
    "template-missing", "warning", "A card that describes a prompt format in a repo without a chat template.",
    "Programs cannot build the prompt.", "lint",
)  # fmt: skip
TEMPLATE_DIFFERS = rule(
    "template-differs", "error", "A prompt on the card that differs from the chat template of the repo.",
    "Readers who copy it prompt the model in another format than it was trained on.", "lint",
)  # fmt: skip
