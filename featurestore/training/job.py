"""A training job: a model on its service's training set, beside one that has only the spine's columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from featurestore.client import FeatureStore
from featurestore.errors import MissingEntityKeyError, WrongTypeError
from featurestore.offline import TrainingSet
from featurestore.spec import TrainingJob
from featurestore.training.fit import Report, train


@dataclass(frozen=True, slots=True)
class JobResult:
    """The training set that was used, and what each model is worth."""

    training_set: TrainingSet
    baseline: Report | None
    model: Report


def run_job(
    store: FeatureStore,
    job: TrainingJob,
    spine: pa.Table,
    *,
    event_time: str = "event_timestamp",
    say: Callable[[str], None] = lambda line: None,
) -> JobResult:
    """Join the spine with the job's service and train.

    spine  (n rows) entity keys, event_time, the job's label and its baseline columns

    Raises MissingEntityKeyError, WrongTypeError.
    """
    needed = (*job.service.entity_keys, event_time, job.label, *job.baseline)
    if any(column not in spine.column_names for column in needed):
        raise MissingEntityKeyError(f"the spine of training job {job.name!r}", needed, spine.column_names)
    if spine.schema.field(job.label).type != pa.bool_():
        raise WrongTypeError(job.label, "a label of true and false", str(spine.schema.field(job.label).type))
    say(f"joining {len(spine):,} rows with {len(job.service.columns)} features of {job.service.name}")
    found = store.training_set(job.service.name, spine, label=job.label, event_time=event_time)
    say(f"training set {found.id}")
    table, folder = found.table(), store.settings.training_path / "models" / found.id

    def fitted(name: str, columns: tuple[str, ...]) -> Report:
        return train(
            name,
            table,
            label=job.label,
            columns=columns,
            event_time=event_time,
            epochs=job.epochs,
            seed=job.seed,
            save_to=folder,
            say=say,
        )

    baseline = fitted(f"{job.name}-baseline", job.baseline) if job.baseline else None
    return JobResult(found, baseline, fitted(job.name, (*job.baseline, *found.features)))
