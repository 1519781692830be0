"""Names: what may stand in keys, columns, topics and metric labels."""

from __future__ import annotations

import re

from featurestore.errors import InvalidNameError

# What a lookup says of a view, each as `view__name` like the view's features: so no feature is called so.
LOOKUP_NAMES = STATUS, AGE_S, WATERMARK = "status", "age_s", "watermark"

# "__" separates view and feature in a served column, so no name may hold it.
_NAME = re.compile(r"[a-z](?:[a-z0-9-]|_(?!_)){0,63}")


def checked_name(kind: str, name: object) -> str:
    """The name itself, or InvalidNameError."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidNameError(kind, name)
    return name
