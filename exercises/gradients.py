"""Gradient checks: analytic gradients against central finite differences, in float64."""

import numpy as np

TOLERANCE = 1e-6  # largest relative error of a correct gradient


def relative_error(a, b):
    """Return ‖a - b‖ / (‖a‖ + ‖b‖), which is 0 for equal arrays and at most 1."""
    return np.linalg.norm(a - b) / max(np.linalg.norm(a) + np.linalg.norm(b), 1e-12)


def finite_differences(function, x, step=1e-5):
    """The gradient of `function()`, a number that depends on the array x, by central differences.

    Each element of x is changed in place and restored.
    """
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        original = x[i]
        x[i] = original + step
        above = function()
        x[i] = original - step
        gradient[i] = (above - function()) / (2 * step)
        x[i] = original
    return gradient


def wrong_gradients(loss, arrays, gradients):
    """Return a dict from the name of each wrong gradient of `loss()` to its relative error.

    `arrays` and `gradients` map names to arrays, in the order of the forward pass. The backward
    pass starts at the end, and a bug corrupts everything computed after it. So the last wrong
    gradient in this order is the one closest to the bug, and it comes first in the result.
    """
    errors = {
        name: relative_error(gradients[name], finite_differences(loss, array))
        for name, array in reversed(arrays.items())
    }
    return {name: error for name, error in errors.items() if not error < TOLERANCE}


def gradients_by_differences(forward, dy, *arrays):
    """Finite differences of the loss Σ forward() · dy with respect to each of the arrays."""
    return [finite_differences(lambda: float((forward() * dy).sum()), x) for x in arrays]
