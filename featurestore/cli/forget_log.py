"""`featurestore forget-log`: go on with another event log, where the one that the workers wrote is lost."""

from __future__ import annotations

from typing import Annotated

import typer


def forget_log(topic: Annotated[str, typer.Argument(help="whose event log is lost")]) -> None:
    """Let the next worker keep a topic's events in the log that it finds in its offline_path, or makes there.

    Workers must have ended. No log is touched; events that only the lost one had are in no training set.
    """
    from featurestore.cli import console
    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams.build import online_store
    from streams.group import refuse_workers

    chosen = Settings()
    name = load(chosen.definitions).topic(topic).name
    refuse_workers(chosen)
    held = online_store(chosen).forget_log(name)
    if held is None:
        console.print(f"nothing to forget: no worker has said yet which event log {name} has")
    else:
        console.print(f"forgot {held}: the next worker says which event log {name} has from now on")
