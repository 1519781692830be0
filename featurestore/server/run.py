"""Serve the app until SIGTERM or Ctrl-C."""

from __future__ import annotations

import gc

import uvicorn

from featurestore.client import FeatureStore
from featurestore.kernel import warm_up
from featurestore.server.app import make_app
from featurestore.settings import Settings

# Lookups block a thread each; beyond this many at once a client is told to come back.
_CONCURRENCY_MAX = 512
_DRAIN_S = 10


def serve(settings: Settings) -> None:
    """Run in this process, until told to stop. Access lines are left out: each costs as much as a lookup."""
    app = make_app(FeatureStore(settings))
    warm_up()
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        log_level="info",
        access_log=False,
        limit_concurrency=_CONCURRENCY_MAX,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    # Definitions and modules live as long as the process: keep the collector from walking them for every request.
    gc.freeze()
    uvicorn.Server(config).run()
