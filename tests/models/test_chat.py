"""Templates: where they come from, what they do to a conversation, and what strangers' may not do."""

from __future__ import annotations

import resource
import threading

import psutil
import pytest
from commands import until

from hubkit.core.errors import RefusedError, UsageError
from hubkit.models.chat import agreement, golden, library, rendering
from hubkit.models.chat.eos import EndOfTurn, find

END = EndOfTurn("<|im_end|>", 260)
SAID = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi <b>é</b>"}]


def test_our_chatml_renders_as_transformers_renders_it(make_tokenizer):
    tokenizer = make_tokenizer(library.CHATML)
    for messages in golden.GOLDEN.values():
        assert rendering.render(library.CHATML, messages) == tokenizer.apply_chat_template(
            list(messages), tokenize=False
        )
    asked = rendering.render(library.CHATML, SAID[:1], add_generation_prompt=True)
    assert asked == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert find(tokenizer).id == 260


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}\n  {% if loop.last %}{% break %}{% endif %}\n{{ m | tojson }}{% endfor %}",  # noqa: E501
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}\n{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endfor %}",
    ],
)
def test_the_sandbox_knows_what_transformers_knows(make_tokenizer, template):
    tokenizer = make_tokenizer(template)
    ours = rendering.render(template, SAID, variables=tokenizer.special_tokens_map)
    assert ours == tokenizer.apply_chat_template(SAID, tokenize=False)


def test_template_of_the_recipe(make_tokenizer, tmp_path):
    own = make_tokenizer("{{ messages }}")
    (tmp_path / "mine.jinja").write_text("{# mine #}")
    assert library.choose("base", own, tmp_path) == library.ChatTemplateChoice("{{ messages }}", "{{ messages }}")
    assert library.choose("chatml", own, tmp_path) == library.ChatTemplateChoice(
        library.CHATML, library.training("chatml")
    )
    assert library.choose("mine.jinja", own, tmp_path).shipped == "{# mine #}"
    for wrong in ("other.jinja", "chatlm"):
        with pytest.raises(UsageError, match=wrong) as refused:
            library.choose(wrong, own, tmp_path)
        assert "llama-3" in (refused.value.hint or "")
    assert "did you mean 'chatml'?" in str(library.setting_problem("chatlm", tmp_path))
    assert library.setting_problem("base", tmp_path) is library.setting_problem("gemma", tmp_path) is None
    with pytest.raises(RefusedError, match="no chat template"):
        library.choose("base", make_tokenizer(None), tmp_path)
    (tmp_path / "mine.jinja").write_text("{% for %}")
    with pytest.raises(RefusedError, match="not valid Jinja"):
        library.choose("mine.jinja", own, tmp_path)
    (tmp_path / "mine.jinja").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="Cannot read"):
        library.choose("mine.jinja", own, tmp_path)


def test_of_several_own_templates_the_default_one_is_taken_and_said(make_tokenizer, tmp_path):
    own = make_tokenizer({"default": "{{ messages }}", "tool_use": "{{ tools }}"})
    chosen = library.choose("base", own, tmp_path)
    assert chosen.shipped == "{{ messages }}"
    assert [finding.level for finding in chosen.findings] == ["note"] and "tool_use" in chosen.findings[0].message
    assert chosen.findings[0].rule == "template-choice"


def golden_findings(template):
    return golden.golden_findings(rendering.render_untrusted(template, golden.golden_requests()))


def test_golden_conversations_find_what_a_template_does_wrong():
    assert golden_findings(library.CHATML) == []
    upper = library.CHATML.replace("message['content']", "message['content'] | upper")
    assert {finding.level for finding in golden_findings(upper)} == {"error", "warning"}
    assert {finding.rule for finding in golden_findings(upper)} == {"template-fails", "template-system"}
    forgetful = library.CHATML.replace("message in messages", "message in messages[-2:]")
    assert any(
        "several turns" in finding.message and finding.level == "error" for finding in golden_findings(forgetful)
    )
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + library.CHATML
    assert [(finding.level, "no system" in finding.message) for finding in golden_findings(strict)] == [("note", True)]
    other = library.CHATML.replace("{%- if add_generation_prompt -%}", "{%- if add_generation_prompt -%}Now: ")
    assert all(finding.level == "warning" and "beginning" in finding.message for finding in golden_findings(other))
    assert [finding.rule for finding in golden_findings(other)] == ["template-prefix"] * len(golden.GOLDEN)


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
        "{{ (''|attr('__class__')|attr('__mro__'))[1] }}",
        "{{ messages.append({'role': 'user'}) }}",
        "{{ range(10**9) | list }}",
        "{{ raise_exception('stop') }}",
        "{% include '/etc/passwd' %}",
    ],
)
@pytest.mark.fault("S9")
def test_what_a_strangers_template_may_not_do(template, tmp_path):
    canary = tmp_path / "canary"
    [answer] = rendering.render_untrusted(template.replace("CANARY", str(canary)), [(SAID, False)])
    assert answer.text is None
    assert answer.problem
    assert not canary.exists()


@pytest.mark.fault("S9")
@pytest.mark.parametrize("template", ["{% break %}", "{% continue %}", "{{ x }}{% break %}"])
def test_what_pythons_own_compiler_refuses_is_the_templates_mistake(template):
    (found,) = rendering.render_untrusted(template, [([], False)])
    assert "outside loop" in found.problem or "not properly in loop" in found.problem
    with pytest.raises(RefusedError, match="cannot render"):
        rendering.render(template, [])


@pytest.mark.parametrize(
    "template", ["{{ 'x' * 10**10 }}", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"]
)
@pytest.mark.fault("S9")
def test_a_template_that_eats_memory_or_time_is_stopped(template):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        [answer] = rendering.render_untrusted(template, [(SAID, False)], timeout=2)
        assert answer.text is None
    except RefusedError as refused:
        assert "could not be rendered" in refused.message
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4


def test_a_busy_machine_is_not_the_templates_mistake():
    """The child gets no processor for longer than its limit of processor time."""
    found = []
    asking = threading.Thread(
        target=lambda: found.extend(rendering.render_untrusted("{{ 1 + 1 }}", [(SAID, False)], timeout=1))
    )
    before = set(psutil.Process().children())
    asking.start()
    (child,) = until(lambda: set(psutil.Process().children()) - before, 60)
    child.suspend()
    asking.join(1.5)
    child.resume()
    asking.join(60)
    assert [answer.text for answer in found] == ["2"]


@pytest.mark.fault("S9", "S11")
def test_a_strangers_template_sees_no_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    [answer] = rendering.render_untrusted("{{ self.__dict__ }}{{ HF_TOKEN }}", [(SAID, False)])
    assert "hf_planted" not in str(answer)


def ends(**changes):
    sound = {"tokenizer_eos": 260, "pad": 258, "config_eos": (260,), "generation_eos": (257, 260)}
    return agreement.Ends(**{**sound, "vocabulary": 261, "tokens": 261, **changes})


@pytest.mark.parametrize(
    ("changes", "levels", "says"),
    [
        ({}, [], ""),
        ({"generation_eos": (257,)}, ["error"], "does not stop"),
        ({"generation_eos": (), "config_eos": ()}, ["error"], "missing"),
        ({"generation_eos": ()}, [], ""),
        ({"config_eos": (2,)}, ["warning"], "config.json"),
        ({"pad": 260}, ["error"], "padding token is the end-of-turn token"),
        ({"tokenizer_eos": 257}, ["note"], "EOS token"),
        ({"tokens": 300}, ["error"], "embeddings"),
        ({"vocabulary": 260}, ["error"], "embeddings"),
    ],
)
def test_the_four_files_agree_or_it_is_said(changes, levels, says):
    found = agreement.disagreements(END, ends(**changes))
    assert [finding.level for finding in found] == levels
    assert all(says in finding.message for finding in found)


def test_ends_are_read_from_tokenizer_and_configs(make_tokenizer, make_model):
    config = make_model().config.to_dict()
    tokens = agreement.Tokens.of(make_tokenizer())
    assert agreement.ends_of(tokens, config, {"eos_token_id": [257, 260]}) == ends(tokenizer_eos=257)
    plain = agreement.Tokens(
        {"eos_token": "a", "pad_token": "ab"}, {}, 261, lambda text: [ord(letter) for letter in text]
    )
    read = agreement.ends_of(plain, config, None)
    assert (read.tokenizer_eos, read.pad, read.generation_eos) == (97, None, ())


def test_agreement_is_one_look_at_template_tokenizer_and_configs(make_tokenizer, make_model):
    tokens = agreement.Tokens.of(make_tokenizer())
    config = make_model().config.to_dict()
    sound = agreement.agree(library.CHATML, tokens, config, {"eos_token_id": [260]})
    assert (sound.end_of_turn, sound.template) == (EndOfTurn("<|im_end|>", 260, (198,)), ())
    assert [finding.level for finding in sound.files] == ["note"]  # the tokenizer's own eos is </s>
    agreement.refuse(sound.findings)
    wrong = agreement.agree(library.CHATML, tokens, config, {"eos_token_id": 257})
    assert wrong.template == () and [finding.level for finding in wrong.files] == ["error", "note"]
    with pytest.raises(RefusedError, match=r"^Here: Answers end with <\|im_end\|> \(260\)"):
        agreement.refuse(wrong.findings, "Here: ")
    endless = agreement.agree(library.CHATML.replace("<|im_end|>", ""), tokens, config, None)
    assert endless.end_of_turn is None and "never closes" in endless.findings[-1].message
    assert agreement.agree("{{ 'x' * 10**10 }}", tokens, config, None).findings[-1].level == "error"
    adapter = agreement.agree(library.CHATML, tokens, {}, {"eos_token_id": 257})
    assert (adapter.end_of_turn, adapter.findings) == (sound.end_of_turn, ())


def test_a_template_that_writes_the_date_is_said(make_tokenizer):
    dated = "{{ strftime_now('%d %b %Y') }}" + library.CHATML
    found = agreement.agree(dated, agreement.Tokens.of(make_tokenizer()), None, None)
    assert [(finding.level, "today's date" in finding.message) for finding in found.findings] == [("note", True)]
    assert found.findings[0].rule == "template-date"


def test_special_tokens_in_both_spellings():
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None, "x": "y"}
    assert agreement.special_tokens(config) == {"bos_token": "<s>", "eos_token": "</s>"}
