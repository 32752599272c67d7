"""Everything that can be found out about a model from its JSON files, safetensors headers, card and chat template.

Nothing is loaded into a model and no torch is needed. The chat template is rendered in a child process with limits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from hubkit.checks.model import adapter, card, chat, layout, measurements, pointers, weights
from hubkit.checks.model.family import family_of, says_that_it_chats
from hubkit.checks.model.files import plain, settings_of
from hubkit.checks.model.report import CheckReport
from hubkit.checks.rules import FRONT_MATTER, JSON, PICKLE, SAFETENSORS
from hubkit.checks.screening import PICKLE_SUFFIXES, screen_names, screen_source
from hubkit.checks.source import Source
from hubkit.core.findings import Finding, in_order

_ARCHIVES = frozenset({".ot", ".pt2", ".zip", ".keras", ".nemo", ".mar", ".xlsx", ".docx"})
"""Archives of other programs, in which a pickle may be; no library that loads the model reads them."""


def check(source: Source, *, fits: bool = False) -> CheckReport:
    """Check the model in ``source`` without loading it.

    ``fits``: where torch and transformers are installed, also compare the tensors' names and shapes with config.json,
    which takes some seconds.
    """
    files = source.files()
    found: list[Finding] = []
    lfs_pointers = pointers.pointers_in(source)
    found += pointers.find(lfs_pointers)
    config = settings_of(source, "config.json", found)
    adapters = adapter.configs_in(files)
    held = weights.inspect(source, config, found, lfs_pointers)
    metadata, body = card.inspect(source, found)
    found += layout.find(files, adapters, metadata)
    for path in adapters:
        found += adapter.find(source, path, settings_of(source, path, found), metadata)
    holder = chat.Holder(family_of(config, files), held is not None, says_that_it_chats(metadata, body))
    end, template = chat.inspect(source, config, found, holder)
    found += _screened(source, lfs_pointers)
    measured = measurements.inspect(source)
    found += measurements.find(measured) if measured else ()
    if fits and config and not any(item.level == "error" for item in found):
        found += weights.find_misfits(source, config)
    base = metadata.get("base_model")
    return CheckReport(
        name=source.name,
        findings=tuple(in_order(map(_printable, found))),
        kind=_kind(has_weights=held is not None, has_adapter=bool(adapters)),
        architecture=plain(next((item for item in config.get("architectures", ()) if isinstance(item, str)), None)),
        dtype=held.dtype if held else None,
        parameters=held.parameters if held else None,
        end_of_turn=end,
        template=template,
        base_model=plain(base) if isinstance(base, str) else None,
        measured=measured,
        files=len(files),
        bytes=sum(entry.size for entry in files.values()),
    )


def _printable(finding: Finding) -> Finding:
    return replace(finding, message=plain(finding.message), hint=plain(finding.hint), file=plain(finding.file))


def _kind(*, has_weights: bool, has_adapter: bool) -> str:
    if has_weights and has_adapter:
        return "model and adapter"
    return "model" if has_weights else "adapter" if has_adapter else "no safetensors weights"


def _screened(source: Source, lfs_pointers: Collection[str]) -> Iterator[Finding]:
    """What must not be published, without what :mod:`weights`, :mod:`card` and :mod:`layout` report of the same file.

    A JSON file that is no settings file of a model does nobody harm.
    """
    for item in (*screen_names(source.files()), *screen_source(source)):
        path = item.file or ""
        by_name = PurePosixPath(path).suffix.lower() in PICKLE_SUFFIXES
        by_header = item.rule == SAFETENSORS.id and "/" not in path and not path.startswith("adapter_")
        by_card = item.rule == FRONT_MATTER.id and path == "README.md"
        of_pointer = path in lfs_pointers and item.rule in {SAFETENSORS.id, JSON.id}
        if not (by_header or by_card or of_pointer or (item.rule == PICKLE.id and by_name)):
            foreign = item.rule == PICKLE.id and PurePosixPath(path).suffix.lower() in _ARCHIVES
            yield replace(item, level="warning") if item.rule == JSON.id or foreign else item
