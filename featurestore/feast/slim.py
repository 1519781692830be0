"""Feast for a process that only reads and writes its registry: imported in two seconds instead of seven.

Feast imports PyTorch where that is installed, for tensors of lookups, and has typeguard compile its classes again with
checks of every argument. A command that applies definitions needs neither.
"""

from __future__ import annotations

import sys
from typing import Any


def import_slim() -> None:
    """Import Feast's registry without them; does nothing where Feast is imported already."""
    import typeguard

    checked, torch = typeguard.typechecked, sys.modules.get("torch")
    typeguard.typechecked = _as_it_is
    if torch is None:
        sys.modules["torch"] = None  # type: ignore[assignment]  # says that it is not installed
    try:
        import featurestore.feast.registry  # noqa: F401
    finally:
        typeguard.typechecked = checked
        if torch is None:
            del sys.modules["torch"]


def _as_it_is(target: Any = None, **how: Any) -> Any:
    """What `typechecked` is where nothing is to be checked: a decorator, or what makes one."""
    return _as_it_is if target is None else target
