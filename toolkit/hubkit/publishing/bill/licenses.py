"""The Hub's license identifiers as SPDX has them (library: license-expression)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

_SPELLED: Mapping[str, str] = {
    "c-uda": "C-UDA-1.0",
    "lgpl-lr": "LGPLLR",
    "odbl": "ODbL-1.0",
    "odc-by": "ODC-By-1.0",
    "pddl": "PDDL-1.0",
}
"""The Hub's identifiers of licenses that SPDX spells in another way. Those that name no version of several
(``bsd``, ``cc``, ``gpl``, ``gfdl``) are no SPDX license."""


def spdx_id(identifier: str) -> str | None:
    """The SPDX identifier of the Hub's ``identifier``; None when SPDX does not list that license.

    The Hub does not say of ``gpl-3.0`` whether later versions are allowed too, so neither does the result: it is the
    identifier of that name, which SPDX keeps.
    """
    return _SPELLED.get(identifier.lower()) or _known().get(identifier.lower())


@cache
def _known() -> Mapping[str, str]:
    """SPDX identifiers that CycloneDX has too, old ones included, by their lower case."""
    from cyclonedx.spdx import is_supported_id
    from license_expression import get_license_index

    found: dict[str, str] = {}
    for item in get_license_index():
        for name in (item.get("spdx_license_key"), *(item.get("other_spdx_license_keys") or ())):
            if name and not item.get("is_exception") and is_supported_id(name):
                found[name.lower()] = name
    return found
