"""Answers as a table: what the outputs of each kind of model mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mhe.errors import ConfigError
from models.activations import sigmoid
from models.kept_model import Task

Floats = npt.NDArray[np.float64]


def answer_columns(task: Task, z: Floats) -> dict[str, list[str]]:
    """Columns of text from outputs z (rows, outputs), before the link: logits, scores or numbers.

    Two classes: logit, probability of the larger one, class. More: a probability or score for each, class. A number or
    a count: the value expected.
    """
    if task.kind == "linear" or (task.kind == "mlp" and not task.classes):
        return {"value": _numbers(task.numbers(z[:, 0]))}
    if task.kind == "poisson":
        return {"rate": _numbers(np.exp(z[:, 0]))}
    if z.shape[1] == 1:
        chosen = [task.classes[int(logit > 0)] for logit in z[:, 0]]
        return {
            "logit": _numbers(z[:, 0]),
            "probability": _numbers(sigmoid(z[:, 0])),
            "predicted": [f"{c:g}" for c in chosen],
        }
    name, values = "score", z
    if task.kind == "softmax":
        shifted = np.exp(z - z.max(axis=1, keepdims=True))
        name, values = "probability", shifted / shifted.sum(axis=1, keepdims=True)
    columns = {f"{name}_{c:g}": _numbers(column) for c, column in zip(task.classes, values.T, strict=True)}
    return {**columns, "predicted": [f"{task.classes[k]:g}" for k in z.argmax(axis=1)]}


def write_answers(path: Path, task: Task, z: Floats) -> None:
    """Row (from 1) and `answer_columns` as comma separated text. Raises ConfigError if it cannot be written."""
    columns = {"row": [str(row) for row in range(1, len(z) + 1)], **answer_columns(task, z)}
    lines = [",".join(columns), *(",".join(cells) for cells in zip(*columns.values(), strict=True))]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error}") from None


def _numbers(values: Floats) -> list[str]:
    return [f"{value:.6g}" for value in values]
