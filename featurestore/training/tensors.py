"""Arrow columns -> one float32 matrix, without row objects: standardised, nulls as zero beside a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and deviation of each column in the training rows, and which columns had nulls there."""

    columns: tuple[str, ...]
    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]
    masked: npt.NDArray[np.bool_]


def numeric(schema: pa.Schema, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that a model of numbers can take."""
    kinds = {name: schema.field(name).type for name in columns}
    return tuple(
        name
        for name, kind in kinds.items()
        if pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def scaling_of(table: pa.Table, columns: Sequence[str]) -> Scaling:
    """Learn the scaling from training rows."""
    values = _values(table, columns)
    held = ~np.isnan(values)
    count = np.maximum(held.sum(axis=0), 1)
    mean = np.where(held, values, 0.0).sum(axis=0) / count
    spread = np.where(held, values - mean, 0.0)
    deviation = np.sqrt((spread**2).sum(axis=0) / count)
    return Scaling(tuple(columns), mean, np.where(deviation > 0, deviation, 1.0), np.asarray(~held.all(axis=0)))


def matrix(table: pa.Table, scaling: Scaling) -> Matrix:
    """(n, columns + masked columns): scaled values, null as 0, then 1 where a value was null."""
    values = (_values(table, scaling.columns) - scaling.mean) / scaling.deviation
    missing = np.isnan(values)
    values[missing] = 0.0
    return np.ascontiguousarray(np.hstack([values, missing[:, scaling.masked]]), dtype=np.float32)


def to_device(values: npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
    """The array as a tensor: shared memory on the CPU, pinned and asynchronous to CUDA."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _values(table: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.float64]:
    arrays = [table[name].cast(pa.float64()).to_numpy() for name in columns]
    return np.column_stack(arrays) if arrays else np.zeros((len(table), 0))
