"""Strings on their way to a card. A recipe's text must not end a table, open a fence or become markup.

Each function returns :class:`Safe`, and a template can print nothing else. CommonMark lets a backslash stand before
any ASCII punctuation, so escaping loses nothing: the reader sees exactly what the recipe says.
"""

from __future__ import annotations

import html as entities
import re
import shlex
from functools import lru_cache
from urllib.parse import quote

from hubkit.recipe.values import EMAIL, WEB_ADDRESS

# An underscore between letters is no emphasis in CommonMark, and task names are full of them.
_INLINE = re.compile(r"([\\`*{}\[\]<>#~!$^=&@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")
_OPENERS = re.compile(r"^(\d+)([.)])(?=\s|$)")
_CONTROL_TOKEN = re.compile(r"((?:<\|[A-Za-z0-9_]{1,40}\|>)+)")
_TEX = {
    "\\": r"{\textbackslash}", "~": r"{\textasciitilde}", "^": r"{\textasciicircum}", "{": r"\{", "}": r"\}",
    "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
}  # fmt: skip
EXCERPT = 100
"""Characters of an answer that a table shows."""


class Safe(str):
    """Text that may stand on a card as it is."""

    __slots__ = ()


def clean(text: str) -> str:
    """``text`` without what breaks lines or turns the direction of the text around it: each becomes U+FFFD.

    Those are control characters (but line ends and tabs), lone surrogates, separators of lines and bidi controls.
    """
    if text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNPRINTABLE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """``text`` cleaned and on one line, runs of white space as one space."""
    return " ".join(clean(text).split())


@lru_cache(maxsize=4096)  # tables say the same names thousands of times
def md(text: str) -> Safe:
    """``text`` as inline markdown that shows exactly these characters, on one line."""
    return Safe(_opening(_inline(one_line(text))))


def _inline(line: str) -> str:
    return _INLINE.sub(r"\\\1", line).replace("|", "&vert;")


def _opening(line: str) -> str:
    """``line``, whose begin shall not make a list."""
    line = _OPENERS.sub(r"\1\\\2", line)
    return f"\\{line}" if line[:1] in {"-", "+"} else line


def sentence(text: str) -> Safe:
    """``text`` as :func:`md`, with control tokens such as ``<|im_end|>`` as code spans. Not for table cells."""
    parts = _CONTROL_TOKEN.split(one_line(text))
    return Safe(_opening("".join(code(part) if place % 2 else _inline(part) for place, part in enumerate(parts))))


def paragraphs(text: str) -> Safe:
    """``text`` as paragraphs of inline markdown; empty lines part them."""
    parts = [md(part) for part in re.split(r"\n\s*\n", text) if part.strip()]
    return Safe("\n\n".join(parts))


def code(text: str) -> Safe:
    """``text`` as a code span on one line. In a table cell use :func:`cell`."""
    line = one_line(text)
    if not line:
        return Safe("")
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return Safe(f"{fence}{pad}{line}{pad}{fence}")


def cell(text: str) -> Safe:
    """``text`` as a code span for a table cell; as plain words when it holds a bar, which would end the cell."""
    return md(text) if "|" in text else code(text)


def excerpt(text: str) -> Safe:
    """The beginning of ``text`` for a table cell, on one line: ``↵`` is a line end, ``…`` what was left out."""
    lines = [" ".join(line.split()) for line in clean(text).split("\n")]
    whole = " ↵ ".join(line for line in lines if line)
    if len(whole) > EXCERPT:
        words = whole[: EXCERPT + 1].rpartition(" ")[0]
        whole = f"{words if 2 * len(words) > EXCERPT else whole[:EXCERPT]} …"
    return Safe(_inline(whole)) if whole else Safe("*(empty)*")


def fenced(text: str, language: str = "text") -> Safe:
    """``text`` as a fenced block, its fence longer than any run of backticks inside."""
    text = clean(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return Safe(f"{fence}{language}\n{text}{'' if text.endswith(chr(10)) else chr(10)}{fence}")


def python(text: str) -> Safe:
    """``text`` as a Python string literal on one line."""
    simple = text.isprintable() and not {'"', "\\"} & set(text)
    return Safe(f'"{text}"' if simple else ascii(text))


def shell(text: str) -> Safe:
    """``text`` as one word of a POSIX shell's command line."""
    return Safe(shlex.quote(one_line(text)))


def html(text: str) -> Safe:
    """``text`` on one line inside an HTML block, where markdown's backslashes would show."""
    return Safe(entities.escape(one_line(text)))


def path(text: str) -> Safe:
    """The relative path ``text`` as the destination of a link."""
    return Safe(quote(text))


def bibtex(text: str) -> str:
    """``text`` as the value of a BibTeX field, on one line: TeX prints exactly these characters."""
    return "".join(_TEX.get(char, char) for char in one_line(text))


def link(url: str) -> Safe:
    """``url`` as a link when it is a plain http or https URL or an e-mail address, else as code."""
    return Safe(f"<{url}>") if WEB_ADDRESS.fullmatch(url) or EMAIL.fullmatch(url) else code(url)


def branch_url(repo: str, branch: str) -> Safe:
    """The page of ``branch`` of the model ``repo``, relative to the Hub that shows the card."""
    return Safe(f"/{quote(repo)}/tree/{quote(branch)}")


def file_url(repo: str, branch: str, path: str) -> Safe:
    """The page of the file ``path`` on ``branch`` of the model ``repo``, relative to the Hub that shows the card."""
    return Safe(f"/{quote(repo)}/blob/{quote(branch)}/{quote(path)}")


def repo_url(repo: str) -> Safe:
    """The page of the model ``repo``, relative to the Hub that shows the card."""
    return Safe(f"/{quote(repo)}")


def place(branch: str, own_repo: str) -> Safe:
    """Where another variant is, after "the": its branch, or a link to the repo that is its own ('': it has none)."""
    return Safe(f"repository [{code(own_repo)}]({repo_url(own_repo)})" if own_repo else f"branch {code(branch)}")


def variant_link(branch: str, own_repo: str, repo: str) -> Safe:
    """A link to another variant: to its branch of ``repo``, or to the repo that is its own ('': it has none)."""
    if own_repo:
        return Safe(f"[{cell(own_repo)}]({repo_url(own_repo)})")
    return Safe(f"[{cell(branch)}]({branch_url(repo, branch)})")


def model_link(repo: str) -> Safe:
    """A link to the model ``repo``."""
    return Safe(f"[{cell(repo)}]({repo_url(repo)})")


def dataset_link(name: str, repo: str) -> Safe:
    """A link to the dataset ``repo``; its ``name`` alone where it is no repo ('')."""
    return Safe(f"[{cell(name)}](/datasets/{quote(repo)})") if repo else cell(name)


def space_url(repo: str) -> Safe:
    """The page of the Space ``repo``, relative to the Hub that shows the card."""
    return Safe(f"/spaces/{quote(repo)}")


def _longest_run(text: str) -> int:
    return max((len(found) for found in re.findall(r"`+", text)), default=0)
