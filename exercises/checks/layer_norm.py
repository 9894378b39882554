"""Exercise 5."""

import numpy as np

from baregpt import layers
from exercises.exercise import Exercise
from exercises.gradients import gradients_by_differences

backward = layers.layer_norm_backward  # kept, because training replaces it


def layer_norm_backward(dy, normalized, inverse_std, gain):
    saved = layers.Saved(normalized=normalized, inverse_std=inverse_std, gain=gain)
    dx, gradients = backward(dy, saved)
    return dx, gradients["gain"], gradients["bias"]


def cases():
    rng = np.random.default_rng(5)
    x, gain, bias = rng.normal(2, 0.7, (6, 5)), rng.normal(size=5), rng.normal(size=5)
    dy = rng.normal(size=(6, 5))
    _, saved = layers.layer_norm(x, gain, bias)
    arguments = dy, saved.normalized, saved.inverse_std, gain
    forward = lambda: layers.layer_norm(x, gain, bias)[0]  # noqa: E731
    yield arguments, gradients_by_differences(forward, dy, x, gain, bias)


def mean(array):
    return array.mean(axis=1, keepdims=True)


def dx_of(change):
    """A mistake that computes dx differently, from dn = dy · gain, n and 1 / std."""

    def mistake(dy, normalized, inverse_std, gain):
        _, dgain, dbias = layer_norm_backward(dy, normalized, inverse_std, gain)
        return change(dy * gain, normalized, inverse_std), dgain, dbias

    return mistake


def without_gain(dy, normalized, inverse_std, gain):
    dx, _, _ = layer_norm_backward(dy, normalized, inverse_std, np.ones_like(gain))
    return dx, *layer_norm_backward(dy, normalized, inverse_std, gain)[1:]


def gain_last(dy, normalized, inverse_std, gain):
    dx, dgain, dbias = without_gain(dy, normalized, inverse_std, gain)
    return dx * gain, dgain, dbias


def dgain_by_row(dy, normalized, inverse_std, gain):
    dx, _, dbias = layer_norm_backward(dy, normalized, inverse_std, gain)
    return dx, dy * normalized, dbias


def dgain_without_n(dy, normalized, inverse_std, gain):
    dx, _, dbias = layer_norm_backward(dy, normalized, inverse_std, gain)
    return dx, dbias, dbias


def dgain_of_dn(dy, normalized, inverse_std, gain):
    dx, dgain, dbias = layer_norm_backward(dy, normalized, inverse_std, gain)
    return dx, dgain * gain, dbias


def dbias_by_row(dy, normalized, inverse_std, gain):
    dx, dgain, _ = layer_norm_backward(dy, normalized, inverse_std, gain)
    return dx, dgain, dy


EXERCISE = Exercise(
    5,
    "layer_norm",
    layer_norm_backward,
    ("dx", "dgain", "dbias"),
    cases,
    "finite differences",
    {
        dx_of(lambda dn, n, inverse_std: (dn - n * mean(dn * n)) * inverse_std): "The path through "
        "the mean is missing: the mean of the row depends on each of its numbers.",
        dx_of(lambda dn, n, inverse_std: (dn - mean(dn)) * inverse_std): "The path through std is "
        "missing: std depends on each number of the row.",
        dx_of(lambda dn, n, inverse_std: dn * inverse_std): "Only the direct path is handled: the "
        "mean and std depend on each number of the row, too.",
        dx_of(lambda dn, n, inverse_std: dn - mean(dn) - n * mean(dn * n)): "The division by std "
        "is missing in dx.",
        dx_of(lambda dn, n, inverse_std: (dn - mean(dn) - n * mean(dn * n)) / inverse_std): "dx is "
        "multiplied by std, but it must be divided: the argument is already 1 / std.",
        dx_of(
            lambda dn, n, inverse_std: (dn - dn.mean(0) - n * (dn * n).mean(0)) * inverse_std
        ): "The means in dx run over the rows, but each row is normalized by itself.",
        dx_of(
            lambda dn, n, inverse_std: (dn - dn.mean() - n * (dn * n).mean()) * inverse_std
        ): "The means in dx run over the whole array, but each row is normalized by itself.",
        dx_of(
            lambda dn, n, inverse_std: (dn - mean(dn) * 5 - n * mean(dn * n) * 5) * inverse_std
        ): "The mean and the variance of a row divide by D, and this 1 / D is missing.",
        dx_of(lambda dn, n, inverse_std: (dn - mean(dn) - n * mean(dn * n) * 5) * inverse_std): (
            "The variance of a row divides by D, and this 1 / D is missing in the path through std."
        ),
        dx_of(lambda dn, n, inverse_std: (dn - mean(dn) * 5 - n * mean(dn * n)) * inverse_std): (
            "The mean of a row divides by D, but this 1 / D is missing."
        ),
        dx_of(lambda dn, n, inverse_std: (dn - mean(dn) - mean(dn * n)) * inverse_std): "In the "
        "path through std, each number changes by its own n, and this factor is missing.",
        dx_of(lambda dn, n, inverse_std: (dn - mean(dn) + n * mean(dn * n)) * inverse_std): "The "
        "sign of the path through std is reversed: a larger std makes n smaller.",
        without_gain: "The gain is missing in dx: the gradient of n is dy times the gain.",
        gain_last: "The gain is applied at the end of dx: it must be applied before the means.",
        dgain_by_row: "The gain is used by every row, so its gradient is a sum over the rows, "
        "which is missing.",
        dgain_without_n: "The gradient of the gain lacks the factor n, by which the gain is "
        "multiplied.",
        dgain_of_dn: "The gradient of the gain is multiplied by the gain itself, on which the "
        "derivative does not depend.",
        dbias_by_row: "The bias is used by every row, so its gradient is a sum over the rows, "
        "which is missing.",
    },
    (
        "dgain and dbias are as in exercise 2: each is used by all rows. For dx, start with the "
        "gradient of n, which is dn = dy · gain. An element of the row affects n directly, "
        "through the mean, and through std.",
        "The direct path gives dn / std. Through the mean: every n falls by 1 / std as the mean "
        "grows, and the mean grows by 1 / D with each x. Through std: the derivative of n is "
        "-n / std, and the derivative of std with respect to x is n / D.",
        "Add the three: dx is dn, minus the row's mean of dn, minus n times the row's mean of "
        "dn · n, all divided by std.",
    ),
)
