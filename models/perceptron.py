"""`Perceptron`: what a multilayer perceptron computes, in public terms and in the clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError
from models.activations import Polynomial
from models.tiles import Form

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Perceptron:
    """inputs (without the constant), widths of the hidden layers, outputs.

    activation: of the hidden layers. link: of the outputs; the error that is propagated back is link(z) - y, the
    gradient of the squared loss for the identity and of the cross-entropy for a sigmoid. coupled: whether the mean over
    the outputs is taken off that error, so that the link is a softmax up to its second order
    (`models.activations.quadratic_softmax`).
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    activation: Polynomial
    link: Polynomial
    coupled: bool = False

    def __post_init__(self) -> None:
        if min((self.inputs, *self.hidden, self.outputs)) < 1:
            raise ParameterError(f"a layer of {self.widths} is empty; need at least one unit everywhere")

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.inputs, *self.hidden, self.outputs)

    @property
    def n_layers(self) -> int:
        return len(self.hidden) + 1

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Of the weights of every layer, (inputs + 1, outputs): the last row is the bias."""
        return tuple((n_in + 1, n_out) for n_in, n_out in zip(self.widths, self.widths[1:], strict=False))

    def form(self, layer: int) -> Form:
        """How the output of a layer lies in its tiles."""
        return "plain" if layer % 2 == 0 else "skewed"

    def initial_weights(self, seed: int) -> list[Floats]:
        """One (inputs + 1, outputs) array a layer, by a public seed: normal, zero bias; zero without hidden layers.

        Half as wide as Glorot and Bengio ("Understanding the difficulty of training deep feedforward neural networks",
        AISTATS 2010) have it for functions that saturate: polynomials grow instead, and must not leave their interval.
        """
        random = np.random.default_rng(seed)
        weights = []
        for n_in, n_out in self.shapes:
            spread = 0.5 * np.sqrt(2 / (n_in - 1 + n_out)) if self.hidden else 0.0
            weights.append(np.vstack([random.normal(0.0, 1.0, (n_in - 1, n_out)) * spread, np.zeros((1, n_out))]))
        return weights

    def outputs_of(self, weights: Sequence[Floats], x: Floats) -> Floats:
        """z of the last layer, before the link: (rows, outputs) for rows (rows, inputs)."""
        for w in weights[:-1]:
            x = self.activation(with_constant(x) @ w)
        return np.asarray(with_constant(x) @ weights[-1], dtype=np.float64)

    @property
    def functions(self) -> tuple[Polynomial, ...]:
        """Behind every layer."""
        return (*[self.activation] * len(self.hidden), self.link)

    @property
    def interval(self) -> tuple[float, float]:
        """Where all polynomials that stand for another function approximate it; endless where none does."""
        ends = [f.interval for f in self.functions if f.degree > 1]
        return (max(low for low, _ in ends), min(high for _, high in ends)) if ends else (-np.inf, np.inf)

    def gradient(self, weights: Sequence[Floats], x: Floats, y: Floats) -> tuple[list[Floats], float]:
        """Gradients of the loss summed over rows x (rows, inputs), y (rows, outputs), and the largest |z| met."""
        inputs, slopes, widest = [], [], 0.0
        for w in weights:
            inputs.append(with_constant(x))
            z = inputs[-1] @ w
            widest = max(widest, float(np.abs(z).max(initial=0.0)))
            x, slope = self.activation(z), self.activation.derivative(z)
            slopes.append(slope)
        error = self.link(z) - y
        if self.coupled:
            error = error - error.mean(axis=1, keepdims=True)
        gradients = []
        for layer in reversed(range(self.n_layers)):
            gradients.append(inputs[layer].T @ error)
            if layer:
                error = (error @ weights[layer][:-1].T) * slopes[layer - 1]
        return gradients[::-1], widest


def with_constant(x: Floats) -> Floats:
    """The rows extended by a constant 1."""
    return np.column_stack([x, np.ones(len(x))])


def targets_of(labels: Floats, outputs: int) -> Floats:
    """What the outputs are trained towards, (rows, outputs), for coded labels (rows,): themselves, or one of each class
    in place of its number.
    """
    return labels[:, None] if outputs == 1 else np.eye(outputs)[labels.astype(np.int64)]
