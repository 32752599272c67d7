"""The library of chat formats: each renders what its makers document, and marks for trainers what is to be learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hubkit.core.errors import RefusedError
from hubkit.models.chat import agreement, golden, library, rendering
from hubkit.models.chat.eos import find
from hubkit_stages import base

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Bye."},
]
PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
# name: (the beginning with a system message, the beginning without, the rest of the conversation up to the second
# question, the opening of an answer, what the answer is written as)
DOCUMENTED: dict[str, tuple[str, str, str, str, str]] = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n",
        "<|im_start|>user\nHi<|im_end|>\n",
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n",
        "<|im_start|>assistant\n",
        "Bye.<|im_end|>\n",
    ),
    "llama-3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "Bye.<|eot_id|>",
    ),
    "llama-2": (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]",
        "<s>[INST] Hi [/INST]",
        " Hello. </s><s>[INST] And? [/INST]",
        "",
        " Bye. </s>",
    ),
    "mistral": (
        "<s>[INST] Be brief.\n\nHi [/INST]",
        "<s>[INST] Hi [/INST]",
        " Hello.</s>[INST] And? [/INST]",
        "",
        " Bye.</s>",
    ),
    "zephyr": (
        "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n",
        "<|user|>\nHi</s>\n",
        "<|assistant|>\nHello.</s>\n<|user|>\nAnd?</s>\n",
        "<|assistant|>\n",
        "Bye.</s>\n",
    ),
    "gemma": (
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n",
        "<s><start_of_turn>user\nHi<end_of_turn>\n",
        "<start_of_turn>model\nHello.<end_of_turn>\n<start_of_turn>user\nAnd?<end_of_turn>\n",
        "<start_of_turn>model\n",
        "Bye.<end_of_turn>\n",
    ),
    "phi-3": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n",
        "<|user|>\nHi<|end|>\n",
        "<|assistant|>\nHello.<|end|>\n<|user|>\nAnd?<|end|>\n",
        "<|assistant|>\n",
        "Bye.<|end|>\n",
    ),
    "alpaca": (
        "<s>Be brief.\n\n### Instruction:\nHi\n\n",
        f"<s>{TASK}### Instruction:\nHi\n\n",
        "### Response:\nHello.</s>\n\n### Instruction:\nAnd?\n\n",
        "### Response:\n",
        "Bye.</s>\n\n",
    ),
    "completion": ("<s>Be brief.\nHi\n", "<s>Hi\n", "Hello.</s>And?\n", "", "Bye.</s>"),
    "vicuna": (
        "<s>Be brief. USER: Hi ASSISTANT:",
        f"<s>{PREAMBLE}USER: Hi ASSISTANT:",
        " Hello.</s>USER: And? ASSISTANT:",
        "",
        " Bye.</s>",
    ),
}
LEARNT = {name: said[4].rstrip("\n") for name, said in DOCUMENTED.items()}


@pytest.fixture
def speaking(make_tokenizer: Any) -> Any:
    """Make a tokenizer that knows the control tokens of a format, with the format as its template."""

    def make(name: str, template: str) -> Any:
        tokenizer = make_tokenizer(template)
        tokenizer.add_special_tokens({"additional_special_tokens": list(library.FORMATS[name].tokens)})
        return tokenizer

    return make


def test_every_format_is_here_and_there_is_no_file_beside() -> None:
    assert set(DOCUMENTED) == set(library.FORMATS)
    folder = Path(library.__file__).parent / "templates"
    assert {path.stem for path in folder.glob("*.jinja")} == set(library.FORMATS)
    assert {path.stem for path in (folder / "training").glob("*.jinja")} == set(library.FORMATS)
    assert all(item.says and item.source for item in library.FORMATS.values())
    with pytest.raises(KeyError):
        library.shipped("../__init__")


@pytest.mark.parametrize("name", library.FORMATS)
def test_a_format_renders_what_its_makers_document(name: str) -> None:
    guided, plain, between, opening, last = DOCUMENTED[name]
    template = library.shipped(name)

    def said(messages: list[dict[str, str]], opened: bool = False) -> str:
        return rendering.render(template, messages, variables=TOKENS, add_generation_prompt=opened)

    assert said(SAID) == guided + between + opening + last
    assert said(SAID[1:]) == plain + between + opening + last
    assert said(SAID[:-1], opened=True) == guided + between + opening
    assert said(SAID[1:2], opened=True) == plain + opening
    empty = [{"role": "system", "content": ""}, SAID[1]]
    assert said(empty, opened=True).endswith(
        (plain + opening).removeprefix("<s>").removeprefix(TASK).removeprefix(PREAMBLE)
    )
    assert "Be brief" not in said(empty) and "<<SYS>>" not in said(empty)


@pytest.mark.parametrize("name", library.FORMATS)
def test_a_format_passes_the_golden_conversations_and_ends_its_turns(name: str, speaking: Any) -> None:
    tokenizer = speaking(name, library.shipped(name))
    found = agreement.agree(library.shipped(name), agreement.Tokens.of(tokenizer), None, None)
    assert found.findings == () and found.end_of_turn == find(tokenizer)
    assert found.end_of_turn.token in {"</s>", *library.FORMATS[name].tokens}
    for messages, opened in golden.golden_requests():
        ours = rendering.render(
            library.shipped(name), messages, variables=tokenizer.special_tokens_map, add_generation_prompt=opened
        )
        assert ours == tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opened)


@pytest.mark.parametrize("name", library.FORMATS)
def test_the_training_form_renders_the_same_and_marks_each_answer_with_its_end_of_turn(
    name: str, speaking: Any
) -> None:
    assert "generation %}" not in library.shipped(name)
    tokenizer = speaking(name, library.training(name))
    for messages, opened in golden.golden_requests():
        texts = {
            tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=opened
            )
            for template in (library.shipped(name), library.training(name), library.unmarked(library.training(name)))
        }
        assert len(texts) == 1
    made = tokenizer.apply_chat_template(SAID, return_dict=True, return_assistant_tokens_mask=True)
    learnt = [token for token, mask in zip(made["input_ids"], made["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(learnt) == LEARNT[name].replace("Bye", "Hello") + LEARNT[name]


def test_trl_finds_the_end_of_turn_within_the_marks(speaking: Any) -> None:
    from trl.chat_template_utils import is_chat_template_stop_token_trained

    for name in library.FORMATS:
        assert is_chat_template_stop_token_trained(speaking(name, library.training(name))), name
    assert not is_chat_template_stop_token_trained(speaking("chatml", library.shipped("chatml")))


@pytest.mark.parametrize(
    "marked",
    [
        "{{ m.role }}:{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n",
        "-\n  {%- generation -%}\n {{ m.content }} <|im_end|>\n  {%- endgeneration -%}\n",
        "\n    {% generation %}\n{{ m.content }}<|im_end|>\n    {%+ endgeneration +%}\n",
        "{%+generation-%}  {{ m.content }}<|im_end|>  {%-endgeneration%}",
    ],
)
def test_marks_leave_no_trace_when_a_template_is_shipped(marked: str, make_tokenizer: Any, tmp_path: Path) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    marked = f"{{% for m in messages %}}{marked}{{% endfor %}}"
    tokenizer = make_tokenizer(marked)
    chosen = library.choose("base", tokenizer, tmp_path)
    assert chosen.training == marked and chosen.shipped != marked
    ImmutableSandboxedEnvironment().parse(chosen.shipped)  # knows no `generation`
    for messages, opened in golden.golden_requests():
        texts = {
            tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=opened
            )
            for template in (chosen.training, chosen.shipped)
        }
        assert len(texts) == 1
    agreed = base.derive_end_of_turn(chosen, tokenizer, {}, None)
    assert agreed.end_of_turn is not None and agreed.end_of_turn.token == "<|im_end|>"
    assert all(finding.level != "error" for finding in agreed.findings)


def test_a_template_whose_marks_change_what_it_renders_is_refused(make_tokenizer: Any, tmp_path: Path) -> None:
    scoped = (
        "{% set ns = 'x' %}{% for m in messages %}{% set end = '?' %}"
        "{% generation %}{% set end = '!' %}{{ m.content }}{% endgeneration %}{{ end }}<|im_end|>{% endfor %}"
    )
    tokenizer = make_tokenizer(scoped)
    with pytest.raises(RefusedError, match="renders differently"):
        base.derive_end_of_turn(library.choose("base", tokenizer, tmp_path), tokenizer, {}, None)


def test_a_format_whose_tokens_the_base_lacks_is_said(make_tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    assert library.choose("chatml", tokenizer, tmp_path).findings == ()
    chosen = library.choose("phi-3", tokenizer, tmp_path)
    assert "<|end|>" in chosen.findings[0].message and chosen.findings[0].level == "warning"
    assert chosen.findings[0].rule == "template-tokens"
    with pytest.raises(RefusedError, match="never closes"):
        base.derive_end_of_turn(chosen, tokenizer, {}, None)
