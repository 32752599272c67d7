"""The parts of the page that are plain HTML. Everything that people and models wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from conversation import WORDS
from huggingface_hub.constants import ENDPOINT
from loading import Progress
from number_format import count, counted, share

BASE = "base"
"""The revision under which release.json has what was measured of the base."""


def heading(release: Mapping[str, Any]) -> str:
    """The top of the page: the title, and what one can do here."""
    several = len(release["revisions"]) > 1
    what = "Ask the revisions of" if several else "Chat with"
    end = release.get("end_of_turn")
    ended = f"emitted its end-of-turn token (<code>{escape(end['token'])}</code>)" if end else "ended its turn"
    base = release.get("base")
    own = {item.get("repo", release["repo"]) for item in release["revisions"]}
    tuned = f", fine-tuned from {_repo(base['repo'])}" if base and base["repo"] not in own else ""
    return (
        f"<h1>{escape(release['title'])}</h1>"
        f'<p>{what} {_repo(release["repo"])}{tuned}.<span class="how"> Below each answer stands whether the model '
        f"{ended} or hit the token limit.</span></p>"
    )


def about(release: Mapping[str, Any], name: str) -> str:
    """One line on a revision: its description, stop rate and commit."""
    item = next(item for item in release["revisions"] if item["name"] == name)
    parts = [escape(item.get("title") or name)]
    if rate := item.get("stop_rate"):
        parts.append(f"<b>stops at {stop_rate(rate)}</b>")
    parts += [commit] if (commit := _commit(release, item)) else []
    return f"<p>{' · '.join(parts)}</p>"


def progress(now: Progress) -> str:
    """A banner while there is no model to ask; nothing when there is."""
    if now.state == "ready":
        return ""
    titles = {"loading": "The model is being loaded", "waiting": "Waiting for the Hub", "failed": "No model to ask"}
    words = f"<b>{titles[now.state]}.</b> {escape(now.message)}"
    return f'<p class="banner {now.state}" role="{"alert" if now.state == "failed" else "status"}">{words}</p>'


def measurements(release: Mapping[str, Any]) -> str:
    """What was measured at release: stop rates, benchmarks and answers; empty without any."""
    return _stop_rates(release) + _benchmarks(release.get("benchmarks")) + _answers(release.get("answers") or ())


def stop_rate(measured: Mapping[str, Any] | None) -> str:
    """A measured stop rate: ``98.4 % (252 of 256)``."""
    if not measured:
        return "not measured"
    stopped, prompts = measured["stopped"], measured["prompts"]
    return f"{share(stopped / prompts)} ({count(stopped)} of {count(prompts)})"


def _stop_rates(release: Mapping[str, Any]) -> str:
    rates = [(item["name"], item.get("title", ""), item.get("stop_rate")) for item in release["revisions"]]
    if not any(rate for *_, rate in rates) and not release.get("base_stop_rate"):
        return ""
    if release.get("base_stop_rate"):
        rates.insert(0, (BASE, release["base"]["repo"], release["base_stop_rate"]))
    rows = [[name, title, stop_rate(rate)] for name, title, rate in rates]
    return (
        "<h2>Stop rate</h2><p>How many answers to held-out prompts ended with the end-of-turn token, not at the token "
        f"limit.</p>{_table('Stop rate', ['Revision', 'Description', 'Answers that stopped'], rows)}"
    )


def _benchmarks(table: Mapping[str, Any] | None) -> str:
    if not table or not table["rows"]:
        return ""
    rows = [
        [label, *("not measured" if cell is None else str(cell) for cell in cells)] for label, *cells in table["rows"]
    ]
    return (
        f"<h2>Benchmarks</h2><p>± is the standard error.</p>{_table('Benchmarks', ['Task', *table['columns']], rows)}"
    )


def _answers(answers: Sequence[Mapping[str, Any]]) -> str:
    prompts = dict.fromkeys(item["prompt"] for item in answers)
    parts = []
    for prompt in prompts:
        rows = [
            [
                item["revision"],
                item["answer"],
                f"{WORDS.get(item['ended'], item['ended'])}, {counted(item['tokens'], 'token')}",
            ]
            for item in answers
            if item["prompt"] == prompt
        ]
        parts.append(
            f"<h3>{escape(prompt)}</h3>{_table(prompt, ['Revision', 'Answer', 'How it ended'], rows, 'answers')}"
        )
    note = "<p>Greedy answers to held-out prompts, verbatim.</p>"
    return f"<h2>Measured answers</h2>{note}{''.join(parts)}" if parts else ""


def _table(label: str, heads: Iterable[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _repo(repo: str) -> str:
    """A repo with a link to its page; the name alone of a local folder."""
    return f"<code>{escape(Path(repo).name)}</code>" if _is_local(repo) else _link(f"{ENDPOINT}/{repo}", repo)


def _commit(release: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """The files of a revision: of the release's repo, or of a ``repo`` of its own."""
    repo, commit = item.get("repo", release["repo"]), item.get("commit")
    if not commit or _is_local(repo):
        return ""
    return _link(f"{ENDPOINT}/{repo}/tree/{commit}", commit[:8])


def _is_local(repo: str) -> bool:
    return repo.startswith(("/", ".")) or "/" not in repo or Path(repo).is_dir()


def _link(to: str, words: str) -> str:
    return f'<a href="{escape(to)}" target="_blank" rel="noopener">{escape(words)}</a>'
