"""Modules that the libraries we depend on import for features that no command here uses, loaded at their first use.

click imports `uuid` for a parameter type, `inspect` imports `ast` and `tokenize` to read source code, `urllib` imports
`ipaddress`. Only the removal of a container needs `shutil`.
"""

from __future__ import annotations

import sys
from importlib.util import LazyLoader, find_spec, module_from_spec

_SELDOM_USED = ("ast", "ipaddress", "shutil", "tokenize", "uuid")


def defer() -> None:
    """Makes the import of each a promise; to be called before what imports them."""
    for name in _SELDOM_USED:
        if name in sys.modules:
            continue
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            continue
        spec.loader = LazyLoader(spec.loader)
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
