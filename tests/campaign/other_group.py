"""A worker of the same project in another consumer group: both are then given every partition."""

from __future__ import annotations

import sys

from featurestore.settings import Settings
from featurestore.spec import load
from streams.build import build_worker
from streams.worker import run_worker


def main(group: str) -> int:
    settings = Settings()
    app = build_worker(settings, load(settings.definitions))
    app.conf.id = group
    return run_worker(app, list(app.port.engines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
