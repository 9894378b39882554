"""Exercise 2."""

import numpy as np

from baregpt import layers
from exercises.exercise import Exercise
from exercises.gradients import gradients_by_differences

backward = layers.mlp_backward  # kept, because training replaces it


def linear_backward(dy, x, w):
    """The MLP with an identity as its first matrix and without GELU is a linear layer."""
    saved = layers.Saved(x=x, w1=np.eye(len(w)), hidden=x, w2=w, slope=1)
    dx, gradients = backward(dy, saved)
    return dx, gradients["w2"], gradients["b2"]


def cases():
    rng = np.random.default_rng(2)
    for inputs, outputs in ((4, 4), (5, 3)):  # square: a missing transpose still fits
        x, w, b = rng.normal(size=(6, inputs)), rng.normal(size=(inputs, outputs)), np.ones(outputs)
        dy = rng.normal(size=(6, outputs))
        gradients = gradients_by_differences(lambda x=x, w=w, b=b: x @ w + b, dy, x, w, b)
        yield (dy, x, w), gradients


def changed(name, change):
    """A mistake that computes one of the three gradients differently."""

    def mistake(dy, x, w):
        correct = linear_backward(dy, x, w)
        return [change(dy, x, w) if n == name else a for n, a in zip(("dx", "dw", "db"), correct)]

    return mistake


EXERCISE = Exercise(
    2,
    "linear",
    linear_backward,
    ("dx", "dw", "db"),
    cases,
    "finite differences",
    {
        changed("db", lambda dy, x, w: dy): "The bias is used by every row, so its gradient is a "
        "sum over the rows, which is missing.",
        changed("db", lambda dy, x, w: dy.mean(axis=0)): "The gradient of the bias is a mean over "
        "the rows, but it must be a sum.",
        changed("db", lambda dy, x, w: dy.sum(axis=1)): "The gradient of the bias sums over the "
        "outputs, but it must sum over the rows.",
        changed("db", lambda dy, x, w: dy.sum()): "The gradient of the bias sums over everything, "
        "but each output has a bias of its own.",
        changed("db", lambda dy, x, w: dy.sum(axis=0, keepdims=True)): "The gradient of the bias "
        "keeps an axis of length 1 that the bias does not have.",
        changed("dw", lambda dy, x, w: dy.T @ x): "dw is transposed: its rows belong to the inputs "
        "and its columns to the outputs.",
        changed("dw", lambda dy, x, w: x @ dy.T): "dw sums over inputs and outputs, but it must "
        "sum over the rows: transpose x instead of dy.",
        changed("dw", lambda dy, x, w: x.T @ dy / len(x)): "dw is a mean over the rows, but it "
        "must be a sum.",
        changed("dx", lambda dy, x, w: dy @ w): "A transpose is missing in dx: the backward pass "
        "sums over the outputs.",
        changed("dx", lambda dy, x, w: (dy @ w.T) * x): "dx is multiplied by x, on which the "
        "derivative of a linear layer does not depend.",
    },
    (
        "x[n, i] affects the outputs y[n, j] of its own row, each with the factor W[i, j]. W[i, "
        "j] affects column j of every row. So does b[j].",
        "dx[n, i] = Σ_j dy[n, j] W[i, j], and dW[i, j] = Σ_n x[n, i] dy[n, j]. Which index is "
        "summed over, and is it the last one of the first factor and the first of the second?",
        "Where it is not, transpose that factor: dx = dy Wᵀ and dW = xᵀ dy. The gradient of b is "
        "the sum of dy over the rows.",
    ),
)
