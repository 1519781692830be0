"""Fit a small network on the earlier four fifths of time; judge it on the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from featurestore.training.metrics import auc, precision_recall
from featurestore.training.tensors import matrix, numeric, scaling_of, to_device

_TRAINED_SHARE = 0.8
_BATCH_ROWS = 4_096
_HIDDEN = 64
_LEARNING_RATE = 2e-3


@dataclass(frozen=True, slots=True)
class Report:
    """What a model is worth on the last fifth of time; `predicted late` at the share of late rows in training."""

    name: str
    columns: int
    trained_rows: int
    judged_rows: int
    auc: float
    precision: float
    recall: float
    losses: tuple[float, ...]
    device: str


def train(
    name: str,
    table: pa.Table,
    *,
    label: str,
    columns: Sequence[str],
    event_time: str,
    epochs: int,
    seed: int,
    save_to: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Train on rows before the cut in time and judge on the others.

    table    label (bool), event time, and feature columns; columns that are not numbers are left out
    save_to  folder for the weights, as plain arrays
    """
    chosen = numeric(table.schema, columns)
    # Sorted by time, so that the cut is a place: rows of one moment fall on one side of it.
    ordered = table.select([*chosen, label, event_time]).sort_by(event_time)
    cut_at = ordered[event_time][int(len(ordered) * _TRAINED_SHARE)]
    earlier = pc.less(ordered[event_time], cut_at)
    past, future = ordered.filter(earlier), ordered.filter(pc.invert(earlier))
    scaling = scaling_of(past, chosen)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    inputs = to_device(matrix(past, scaling), device)
    wanted = to_device(_labels(past, label).astype(np.float32), device)
    model = nn.Sequential(
        nn.Linear(inputs.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1)
    ).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    losses = []
    for epoch in range(epochs):
        losses.append(_epoch(model, optimiser, inputs, wanted, np.random.default_rng((seed, epoch))))
        say(f"{name}: epoch {epoch + 1}/{epochs}, loss {losses[-1]:.4f}")
    with torch.no_grad():
        scores = model(to_device(matrix(future, scaling), device)).squeeze(1).cpu().numpy().astype(np.float64)
    labels, past_labels = _labels(future, label), _labels(past, label)
    threshold = np.quantile(scores, 1.0 - past_labels.mean())
    precision, recall = precision_recall(scores >= threshold, labels)
    if save_to is not None:
        save_to.mkdir(parents=True, exist_ok=True)
        weights = {key: value.cpu().numpy() for key, value in model.state_dict().items()}
        np.savez(save_to / f"{name}.npz", **weights, mean=scaling.mean, deviation=scaling.deviation)
    found = auc(scores, labels)
    return Report(name, len(chosen), len(past), len(future), found, precision, recall, tuple(losses), device.type)


def _epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    inputs: torch.Tensor,
    wanted: torch.Tensor,
    draw: np.random.Generator,
) -> float:
    order = torch.from_numpy(draw.permutation(len(inputs))).to(inputs.device)
    total = 0.0
    for first in range(0, len(order), _BATCH_ROWS):
        rows = order[first : first + _BATCH_ROWS]
        loss = nn.functional.binary_cross_entropy_with_logits(model(inputs[rows]).squeeze(1), wanted[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch publishes no type for it
        optimiser.step()
        total += float(loss.detach()) * len(rows)
    return total / len(order)


def _labels(table: pa.Table, label: str) -> np.ndarray:
    return np.asarray(table[label].combine_chunks().to_numpy(zero_copy_only=False), dtype=np.bool_)
