"""What the Hub tests of `datasets` import from their own helpers, which are not in the distribution."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

require_pil = pytest.mark.skipif(find_spec("PIL") is None, reason="needs Pillow")
require_torchcodec = pytest.mark.skipif(find_spec("torchcodec") is None, reason="needs torchcodec")
require_not_windows = require_pil


def xfail_if_500_502_http_error(test: Any) -> Any:
    """Theirs excuses a server that is down; this one has no excuse."""
    return test


def for_all_test_methods(*decorators: Callable[[Any], Any]) -> Callable[[type], type]:
    """Decorate the tests of a class."""

    def decorated(tests: type) -> type:
        for name in [name for name in vars(tests) if name.startswith("test")]:
            for decorator in decorators:
                setattr(tests, name, decorator(getattr(tests, name)))
        return tests

    return decorated
