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
    "base-relation", "warning", "A base_model_relation that does not match the files.",
    "The Hub lists the model under the wrong heading of its base's page.", "lint",
)  # fmt: skip

# --- averages.py, headings.py

AVERAGE = rule(
    "average", "warning", "A stated average that is not the mean of its table, by any of the known rules.",
    "An average typed by hand goes stale when the scores change. Known are the plain, the geometric and the weighted "
    "mean, the mean of suites or of tasks of one name, and scores out of 10 or 1 brought to 100. A table of which most "
    "lines fit none is left alone; so are suites that weigh what they do not show (C-Eval, CMMLU, FastEval), and "
    "columns called 'Overall'.", "lint",
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
    "scores-not-shown", "note", "A sentence that says scores fell, on a card without the scores of both models.",
    "Readers cannot tell how much was lost.", "lint",
)  # fmt: skip
DEAD_LINK = rule(
    "dead-link", "warning", "A relative link or picture whose file does not exist.",
    "The Hub's page shows a broken picture or answers 404.", "lint",
)  # fmt: skip

# --- python_blocks.py

SNIPPET_SYNTAX = rule(
    "snippet-syntax", "error", "A Python block that is not valid Python.", "Nobody can run it.", "lint", "preflight",
    evidence="Python's own parser refuses it: a SyntaxError before the first line runs.",
)  # fmt: skip
UNDEFINED_NAME = rule(
    "undefined-name", "warning", "A Python block that uses a name which no block before it defines.",
    "It ends with a NameError.", "lint", "preflight",
)  # fmt: skip
MODEL_NONE = rule(
    "model-none", "error", "A Python block that loads the model 'None'.",
    "TRL writes it when hub_model_id was not set. Nobody has a model of that name.", "lint",
    evidence="transformers: from_pretrained asks the Hub for the repo 'None' and raises OSError.",
)  # fmt: skip
GENERATION_PROMPT = rule(
    "generation-prompt", "warning", "A prompt for generate() without add_generation_prompt=True.",
    "The model may continue the user's turn in place of answering. Some templates, such as Mistral's, open the turn by "
    "themselves: without the template beside the card it is advice.", "lint",
)  # fmt: skip
TEMPLATE_RESULT = rule(
    "template-result", "error", "The result of apply_chat_template passed to generate() as the wrong type.",
    "It is a tensor before transformers 5 and a mapping since; return_dict=True works with both.", "lint",
    evidence="transformers 5: generate() raises AttributeError for the BatchEncoding that apply_chat_template returns.",
)  # fmt: skip

# --- chat_template.py

TEMPLATE_MISSING = rule(
    "template-missing", "warning", "A card that describes a prompt format in a repo without a chat template.",
    "Programs cannot build the prompt.", "lint",
)  # fmt: skip
TEMPLATE_DIFFERS = rule(
    "template-differs", "warning", "A prompt on the card that differs from the chat template of the repo.",
    "Readers who copy it prompt the model in another format than it was trained on.", "lint",
    evidence="It is an error where the template cannot be rendered: apply_chat_template raises jinja2.TemplateError.",
)  # fmt: skip
