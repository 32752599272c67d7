"""Python blocks that cannot run, found in their syntax trees: nothing is executed."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from hubkit.cards.lint.document import Document
from hubkit.cards.lint.rules import GENERATION_PROMPT, MODEL_NONE, SNIPPET_SYNTAX, TEMPLATE_RESULT, UNDEFINED_NAME
from hubkit.cards.snippets.blocks import Block
from hubkit.cards.snippets.defined_names import defined, undefined
from hubkit.core.findings import Finding, Level, Rule

_TEMPLATE = "apply_chat_template"
_LOADERS = frozenset({"from_pretrained", "pipeline"})
_NOTEBOOK = frozenset({"display", "get_ipython"})
"""Names that every notebook has."""


def find(document: Document) -> Iterator[Finding]:
    """What is wrong with the Python blocks of ``document``."""
    before: set[str] = set()
    all_known = True
    sessions = {fence.line for fence in document.fences if ">>> " in fence.content}
    notebook = any(block.for_notebook for block in document.blocks)
    for block in document.blocks:
        source = block.without_magic if block.for_notebook else block.source
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            yield _syntax(document, block, error, session=block.line in sessions)
            all_known = False  # what it would have defined, nobody knows
            continue
        own = defined(source)
        for name, line in undefined(source).items() if all_known else ():
            if name not in before and not (notebook and name in _NOTEBOOK):
                yield _undefined(document, block.line + line - 1, name, own, before)
        all_known = all_known and not _imports_all(tree)
        before |= own
        for item in (*_models(tree), *_prompts(tree), *_results(tree)):
            line = block.line + item.line - 1
            yield item.rule.finding(item.message, item.hint, file=document.path, line=line, level=item.level)


def _syntax(document: Document, block: Block, error: BaseException, *, session: bool) -> Finding:
    """Python refuses the block. What a session with prompts ('>>>') that was pasted in part means, nobody can say."""
    line = (error.lineno or 1) if isinstance(error, SyntaxError) else 1
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    return SNIPPET_SYNTAX.finding(
        f"The block is not Python: {reason}.",
        "Fix it, or label the block with another language (```text).",
        file=document.path,
        line=block.line + line - 1,
        level="warning" if session else None,
    )


def _imports_all(tree: ast.Module) -> bool:
    """Whether it has ``from x import *``, which defines names that nobody sees."""
    return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(tree))


def _undefined(document: Document, line: int, name: str, own: set[str], before: set[str]) -> Finding:
    maybe = [other for other in (f"{name}s", name.removesuffix("s")) if other != name]
    close = next((other for other in maybe if other in own or other in before), None)
    todo = f"Write {close!r}, which is defined." if close else "Define it in the block, or import it."
    message = f"The block uses {name!r}, which is not defined."
    return UNDEFINED_NAME.finding(message, todo, file=document.path, line=line)


class _InBlock(NamedTuple):
    """A finding in one block; ``line`` counts from its first line. ``level`` where it is another than the rule's."""

    line: int
    rule: Rule
    message: str
    hint: str
    level: Level | None = None


def _models(tree: ast.Module) -> Iterator[_InBlock]:
    """Calls that load the model 'None'."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or _called(node) not in _LOADERS:
            continue
        first = node.args[0] if node.args and _called(node) == "from_pretrained" else None
        written = first.value if isinstance(first, ast.Constant) else _constants(node).get("model")
        if written == "None":
            hint = "Write the repo id of this model."
            yield _InBlock(node.lineno, MODEL_NONE, "The block loads the model 'None'.", hint)


def _prompts(tree: ast.Module) -> Iterator[_InBlock]:
    """Chat prompts that do not open the assistant's turn, in a block that then generates."""
    if not any(_called(node) == "generate" for node in ast.walk(tree)):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == _TEMPLATE:
            given = _constants(node)
            open_ended = any(keyword.arg is None for keyword in node.keywords)
            if (
                given.get("continue_final_message") is True
                or open_ended
                or given.get("add_generation_prompt", ...) is True
            ):
                continue
            if "add_generation_prompt" in _arguments(node) and "add_generation_prompt" not in given:
                continue  # decided elsewhere
            yield _InBlock(
                node.lineno,
                GENERATION_PROMPT,
                "The prompt does not open the assistant's turn: the model may continue the user's message.",
                "Call apply_chat_template with add_generation_prompt=True.",
                "note",  # until the template is known: some open the turn by themselves
            )


def _results(tree: ast.Module) -> Iterator[_InBlock]:
    """What ``apply_chat_template`` returns, a tensor or a mapping, used as the other."""
    made: dict[str, object] = {}
    stored: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stored[node.id] += 1
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, _unmoved(node.value)
            if isinstance(value, ast.Name) and value.id == name:
                stored[name] -= 1
            elif isinstance(value, ast.Call) and _called(value) == _TEMPLATE:
                given = _constants(value)
                if given.get("tokenize") is not False:
                    made[name] = given.get("return_dict", "not given")
    made = {name: kind for name, kind in made.items() if stored[name] == 1}  # else it may be another thing by then
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and _called(node) == "generate"):
            continue
        for keyword in node.keywords:
            if keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id in made:
                name = keyword.value.id
                if made[name] is not True:
                    when = "" if made[name] is False else " (before transformers 5)"
                    yield _InBlock(
                        node.lineno,
                        TEMPLATE_RESULT,
                        f"{name!r} is a tensor{when}, and `**{name}` unpacks a mapping.",
                        "Call apply_chat_template with return_dict=True, which works with every version.",
                        "error" if made[name] is False else "note",
                    )
        for argument in node.args[:1]:
            if isinstance(argument, ast.Name) and made.get(argument.id, False) is not False:
                when = "" if made[argument.id] is True else " (since transformers 5)"
                yield _InBlock(
                    node.lineno,
                    TEMPLATE_RESULT,
                    f"{argument.id!r} is a mapping{when}, and generate() takes a tensor first.",
                    f"Call apply_chat_template with return_dict=True and pass `**{argument.id}`.",
                )


def _called(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else None


def _arguments(call: ast.Call) -> set[str]:
    return {keyword.arg for keyword in call.keywords if keyword.arg}


def _constants(call: ast.Call) -> dict[str, object]:
    """Keyword arguments that are written out."""
    return {
        keyword.arg: keyword.value.value
        for keyword in call.keywords
        if keyword.arg and isinstance(keyword.value, ast.Constant)
    }


def _unmoved(value: ast.expr) -> ast.expr:
    """What ``value`` is before it is moved to a device."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if value.func.attr not in {"to", "cuda", "cpu"}:
            break
        value = value.func.value
    return value
