"""What Ollama reads beside a GGUF file: a Modelfile, and the three files that the Hub serves to it.

``ollama run hf.co/me/repo`` takes ``template``, ``params`` and ``system`` from the root of the repo; ``ollama create``
takes a Modelfile. Ollama's templates are Go's. Without one it looks for a known template that resembles the Jinja
template in the file, which is a guess; with these files nothing is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubkit.core.errors import UsageError
from hubkit.core.files import write_atomic
from hubkit.models.gguf.model import describe
from hubkit.models.gguf.stops import stop_texts
from hubkit.models.gguf.turns import Turns, turns_of
from hubkit.models.merging.companions import read_settings

FILES = MODELFILE, TEMPLATE, PARAMS, SYSTEM = "Modelfile", "template", "params", "system"
_FROM = re.compile(r"FROM \./[^\r\n]*\.gguf\n")
_LARGEST = 2**31 - 1
"""Ollama keeps top_k in 32 bits; no other setting is as large."""
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
"""Settings of generation_config.json, with Ollama's names."""


@dataclass(frozen=True)
class Companions:
    """The files by name. ``reason``: why there is no ``template``; None when there is one.

    ``notes`` say what else of the model is in none of them, or not in the Modelfile.
    """

    files: Mapping[str, str]
    reason: str | None
    notes: tuple[str, ...] = ()

    def refuse_others(self, folder: Path) -> None:
        """UsageError when one of the four files is in ``folder`` and would be another one: a person's, or a model's."""
        for name in FILES:
            path = folder / name
            if not path.exists() and not path.is_symlink():
                continue
            try:
                content = path.read_bytes().decode()
            except (OSError, UnicodeDecodeError):
                content = None
            if content is None or not _is_of(content, name, self.files.get(name)):
                raise UsageError(
                    f"{path} exists already, and is not of this model.",
                    hint="Delete it, or name another folder with -o.",
                )

    def write(self, folder: Path) -> list[Path]:
        """Write them into ``folder``; their paths. UsageError, and nothing is written, as in :meth:`refuse_others`."""
        self.refuse_others(folder)
        for name, text in self.files.items():
            write_atomic(folder / name, text)
        return [folder / name for name in self.files]


def _is_of(content: str, name: str, text: str | None) -> bool:
    """Whether ``content`` is ``text``; a Modelfile may be that of a file in another type."""
    if name == MODELFILE and text is not None and _FROM.match(content):
        return _FROM.sub("", content) == _FROM.sub("", text)
    return content == text


def of_model(folder: Path, file: Path) -> Companions:
    """Those of ``file``, which is written from the model in ``folder``.

    RefusedError when the chat template passes its limits. UsageError for a name that a Modelfile cannot hold.
    """
    described = describe(folder)
    vocabulary, template = described.vocabulary, described.template
    special = {f"{name}_token": vocabulary.tokens[number] for name, number in vocabulary.special.items()}
    special["eos_token"] = vocabulary.tokens[described.stops.eos]
    return companions(
        file.name,
        turns_of(template, special) if template else None,
        stop_texts(described.stops, vocabulary.tokens),
        sampling_of(read_settings(folder, "generation_config.json")),
        bos=special.get("bos_token") if vocabulary.adds_bos else None,
    )


def sampling_of(generation: Mapping[str, Any]) -> dict[str, float]:
    """What ``generation`` (generation_config.json) sets for sampling, by Ollama's names; nothing where it is greedy."""
    if not generation.get("do_sample"):
        return {}
    values = {ollama: _number(generation.get(name), whole=ollama == "top_k") for name, ollama in _SAMPLING.items()}
    return {name: value for name, value in values.items() if value is not None}


def _number(value: Any, *, whole: bool) -> float | None:
    """``value`` as a number that Ollama reads: finite, and an int where it must be ``whole``; else None."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > _LARGEST or value != value:
        return None
    if not whole:
        return value
    return int(value) if value == int(value) else None


def companions(
    file: str, turns: Turns | None, stops: Sequence[str], sampling: Mapping[str, float], *, bos: str | None
) -> Companions:
    """Those of the GGUF file called ``file``.

    ``stops`` are the texts of the tokens that end an answer, ``sampling`` is Ollama's name and value of what
    generation_config.json sets, ``bos`` the token that llama.cpp puts before every text (None: it puts none).

    A Modelfile has no way to escape a quote, so text with one that would end there is left out, and told.
    """
    if _ends_line(file) or '"' in file:
        raise UsageError(f"A Modelfile cannot hold the name {file!r}.", hint="Name another file with -o.")
    template, reason = _template(turns, bos)
    system = turns.default_system if turns else ""
    files = {PARAMS: json.dumps({**sampling, "stop": list(stops)}, indent=2, ensure_ascii=False) + "\n"}
    lines, notes = [f"FROM ./{file}"], []
    if template is not None:
        files[TEMPLATE] = template
        lines.append(f'TEMPLATE """{template}"""')
    if system:
        files[SYSTEM] = system
    if '"""' in system:
        notes.append('The Modelfile has no SYSTEM: the system message of the chat template has """ in it.')
    elif system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f"PARAMETER {name} {value!r}" for name, value in sampling.items()]
    for text in stops:
        if '"' in text or _ends_line(text):
            notes.append(f"The Modelfile does not stop at {text!r}: a quote or an end of line there would end it.")
        else:
            lines.append(f'PARAMETER stop "{text}"')
    files[MODELFILE] = "\n".join(lines) + "\n"
    return Companions(files, reason, tuple(notes))


def _ends_line(text: str) -> bool:
    return any(not letter.isprintable() and letter != " " for letter in text)


def _template(turns: Turns | None, bos: str | None) -> tuple[str | None, str | None]:
    """The template, or why there is none."""
    if turns is None:
        return None, "the chat template writes more than the turns of a conversation."
    template = go_template(turns, bos)
    return template, None if template is not None else 'the chat template writes {{, }} or """, which Ollama reads.'


def go_template(turns: Turns, bos: str | None) -> str | None:
    """``turns`` as a template of Ollama; None when it would hold text that Go or a Modelfile reads as its own."""
    start = turns.start.removeprefix(bos) if bos else turns.start
    texts = [start, turns.opening, *turns.before.values(), *turns.after.values(), turns.default_system]
    if any(mark in text for text in texts for mark in ("{{", "}}", '"""')):
        return None
    branches = []
    for place, role in enumerate(turns.before):
        after = turns.after[role] if role != "assistant" else "{{ if not $last }}" + turns.after[role] + "{{ end }}"
        branches.append(
            f'{{{{ {"else " if place else ""}if eq .Role "{role}" }}}}{turns.before[role]}{{{{ .Content }}}}{after}'
        )
    return (
        start
        + "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        + "".join(branches)
        + '{{ end }}{{ if and $last (ne .Role "assistant") }}'
        + turns.opening
        + "{{ end }}{{ end }}"
    )
