"""URLs of servers, as they stand in settings: shown without what is secret in them, and what is wrong with one."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus, urlsplit

_REDIS = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_SECRET = r"pass|pwd|secret|token|key|credential"
# A parameter by its name, or one that holds parameters of its own, as an ODBC URL does.
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
_SECRET_INSIDE = re.compile(rf"(?:{_SECRET})\w*\s*=", re.IGNORECASE)
# To the next '&' whatever comes: a secret may have any other sign, though it should not.
_PARAMETER = re.compile(r"([?&;])([^=?&;]*)=([^&]*)")


def shown_url(text: str) -> str:
    """A URL without its password and without parameters that may be secrets; what is no URL stays as it is."""
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return text
    rest = _PARAMETER.sub(_shown_parameter, rest)
    # Up to the last one: a password may have a '@', or a '/', that nobody escaped.
    login, at, host = rest.rpartition("@")
    user, colon, password = login.partition(":")
    is_host = user.startswith("[") or re.match(r"[^?@]*:\d+(/[^?@]*)?\?", login)
    # Of the web, who stands alone is a token.
    is_token = scheme.lower() in ("http", "https") and not password and not re.search(r"[/?#]", login)
    if at and is_token:
        rest = f"***@{host}"
    elif at and colon and not is_host:
        rest = f"{user}:***@{host}"
    return f"{scheme}://{rest}"


def _shown_parameter(found: re.Match[str]) -> str:
    mark, name, value = found.groups()
    is_secret = _SECRET_NAME.search(unquote_plus(name)) or _SECRET_INSIDE.search(unquote_plus(value))
    return f"{mark}{name}={'***' if is_secret else value}"


def redis_fault(url: str) -> str | None:
    """What is wrong with the URL of an online store, without a word of it; None where nothing is."""
    example = "write one such as redis://127.0.0.1:6379/0"
    scheme, is_url, rest = url.partition("://")
    if not is_url or scheme.lower() not in _REDIS:
        return f"it must begin with one of {', '.join(f'{each}://' for each in _REDIS)}; {example}"
    if scheme.lower() == "unix":
        return None
    try:
        # A cluster's nodes stand side by side.
        for node in urlsplit(f"//{rest}").netloc.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{node}").port
    except ValueError:
        return f"its host and port cannot be read; {example}, or redis://[::1]:6379/0 for an IPv6 address"
    return None
