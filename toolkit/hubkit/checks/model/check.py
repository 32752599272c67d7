"""Everything that can be found out about a model from its JSON files, safetensors headers, card and chat template.

Nothing is loaded into a model and no torch is needed. The chat template is rendered in a child process with limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from hubkit.checks.model import adapter, card, chat, layout, weights
from hubkit.checks.model.files import plain, settings_of
from hubkit.checks.model.report import CheckReport
from hubkit.checks.rules import FRONT_MATTER, JSON, PICKLE, SAFETENSORS
from hubkit.checks.screening import PICKLE_SUFFIXES, screen_names, screen_source
from hubkit.checks.source import Source
from hubkit.core.findings import Finding, in_order


def check(source: Source, *, fits: bool = False) -> CheckReport:
    """Check the model in ``source`` without loading it.

    ``fits``: where torch and transformers are installed, also compare the tensors' names and shapes with config.json,
    which takes some seconds.
    """
    files = source.files()
    found: list[Finding] = []
    config = settings_of(source, "config.json", found)
    adapters = adapter.configs_in(files)
    found += layout.find(files, adapters)
    held = weights.inspect(source, config, found)
    metadata = card.inspect(source, found)
    for path in adapters:
        found += adapter.find(source, path, settings_of(source, path, found), metadata)
    end, template = chat.inspect(source, config, found, has_weights=held is not None)
    found += _screened(source)
    if fits and config and not any(item.level == "error" for item in found):
        found += weights.find_misfits(source)
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
        files=len(files),
        bytes=sum(entry.size for entry in files.values()),
    )


def _printable(finding: Finding) -> Finding:
    return replace(finding, message=plain(finding.message), hint=plain(finding.hint), file=plain(finding.file))


def _kind(*, has_weights: bool, has_adapter: bool) -> str:
    if has_weights and has_adapter:
        return "model and adapter"
    return "model" if has_weights else "adapter" if has_adapter else "no safetensors weights"


def _screened(source: Source) -> Iterator[Finding]:
    """What must not be published, without what :mod:`weights`, :mod:`card` and :mod:`layout` report of the same file.

    A JSON file that is no settings file of a model does nobody harm.
    """
    for item in (*screen_names(source.files()), *screen_source(source)):
        path = item.file or ""
        by_name = PurePosixPath(path).suffix.lower() in PICKLE_SUFFIXES
        by_header = item.rule == SAFETENSORS.id and "/" not in path and not path.startswith("adapter_")
        by_card = item.rule == FRONT_MATTER.id and path == "README.md"
        if not (by_header or by_card or (item.rule == PICKLE.id and by_name)):
            yield replace(item, level="warning") if item.rule == JSON.id else item
