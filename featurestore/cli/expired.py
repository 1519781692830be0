"""`featurestore skip-expired`: go on without records that the broker deleted before they were read."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def skip_expired(
    topic: Annotated[str | None, typer.Option(help="only this topic; default: all that a view reads")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be skipped, and do nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Skip records that the broker deleted before they were read, so that a worker can start; no value counts them.

    Workers must have ended. Without such records nothing is done.
    """
    from featurestore.cli import console, show_table
    from featurestore.settings import Settings
    from featurestore.spec import load
    from streams import expired

    chosen = Settings()
    act = expired.expired if dry_run else expired.skip_expired
    found = act(chosen, load(chosen.definitions), topic)
    if as_json:
        told = [{**asdict(each), "offsets": each.offsets} for each in found]
        print(json.dumps({"dry_run": dry_run, "skipped": told}))
        return
    if not found:
        console.print(
            "nothing to skip: the broker has all that the event log lacks; a worker that stopped can start again"
        )
        return
    rows = [
        [each.topic, str(each.partition), f"{each.first:,}", f"{each.end:,}", f"{each.offsets:,}"] for each in found
    ]
    columns = ["topic", "partition", "from", "to", "offsets skipped"]
    show_table("would be skipped; nothing was done" if dry_run else "skipped", columns, rows)
