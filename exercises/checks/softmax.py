"""Exercise 4."""

import numpy as np

from baregpt import layers
from exercises.exercise import Exercise
from exercises.gradients import gradients_by_differences

softmax_backward = layers.softmax_backward


def cases():
    rng = np.random.default_rng(4)
    for shape in ((3, 5), (2, 3, 4)):
        x, dy = rng.normal(size=shape), rng.normal(size=shape)
        yield (
            (dy, layers.softmax(x)),
            gradients_by_differences(lambda x=x: layers.softmax(x), dy, x),
        )


def diagonal_only(dy, y):
    return dy * y * (1 - y)


def off_diagonal_only(dy, y):
    return softmax_backward(dy, y) - dy * y


def without_difference(dy, y):
    return dy * y


def sum_over_everything(dy, y):
    return y * (dy - (dy * y).sum())


def sum_over_first_axis(dy, y):
    return y * (dy - (dy * y).sum(axis=0))


def sum_over_second_axis(dy, y):
    return y * (dy - (dy * y).sum(axis=1, keepdims=True))


def without_outer_factor(dy, y):
    return dy - (dy * y).sum(axis=-1, keepdims=True)


def without_inner_factor(dy, y):
    return y * (dy - dy.sum(axis=-1, keepdims=True))


def without_dy_in_sum(dy, y):
    return y * (dy - y.sum(axis=-1, keepdims=True))


def mean_for_sum(dy, y):
    return y * (dy - (dy * y).mean(axis=-1, keepdims=True))


def opposite_sign(dy, y):
    return y * (dy + (dy * y).sum(axis=-1, keepdims=True))


EXERCISE = Exercise(
    4,
    "softmax",
    softmax_backward,
    ("dx",),
    cases,
    "finite differences",
    {
        diagonal_only: "Only the case i = j is handled: each x also changes the other outputs of "
        "its row, through the sum.",
        off_diagonal_only: "The term for i = j lacks the part in which x changes its own "
        "numerator.",
        without_difference: "This treats the sum as a constant, but the sum depends on every x of "
        "the row.",
        sum_over_everything: "The sum runs over the whole array: each row needs a sum of its own.",
        sum_over_first_axis: "The sum runs over the first axis: it must run over the last one.",
        sum_over_second_axis: "The sum runs over the second axis: it must run over the last axis, "
        "even for a 3-D array.",
        without_outer_factor: "Every term has the factor y[j], which is missing outside the "
        "difference.",
        without_inner_factor: "In the sum over i, each dy[i] must be weighted by its y[i].",
        without_dy_in_sum: "In the sum over i, each y[i] must be multiplied by its dy[i].",
        mean_for_sum: "The chain rule sums over the outputs, but this takes a mean.",
        opposite_sign: "The sign of the sum is reversed: if one output grows, the others shrink.",
    },
    (
        "Use the quotient rule. The numerator of y[i] depends on x[i] alone, the sum on all x.",
        "The derivative of y[i] with respect to x[j] is y[i] (1 - y[i]) if i = j, and -y[i] y[j] "
        "if i ≠ j: together, y[i] (δ - y[j]), where δ is 1 if i = j and 0 otherwise.",
        "Sum dy[i] times this over i: the δ leaves dy[j] y[j], and the rest is -y[j] times the "
        "sum of dy · y over the row. Pass `keepdims=True`, so that the sum broadcasts.",
    ),
)
