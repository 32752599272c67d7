"""Path convertors of the routes: ``{kind:kind}`` and ``{ns:account}``. Importing this module registers them."""

from __future__ import annotations

from starlette.convertors import StringConvertor, register_url_convertor

from hubkit.server.accounts.accounts import OWNER, RESERVED


class KindConvertor(StringConvertor):
    """``models``, ``datasets``, ``spaces`` or ``kernels``."""

    regex = "models|datasets|spaces|kernels"


class AccountConvertor(StringConvertor):
    """A namespace: any part of a path that is not a reserved name of the Hub."""

    regex = f"(?!(?i:{'|'.join(sorted(RESERVED - {OWNER}))})(?:/|$))[^/]+"


register_url_convertor("kind", KindConvertor())
register_url_convertor("account", AccountConvertor())
