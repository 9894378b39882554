"""Gradient checks: analytic gradients against central finite differences, in float64."""

import numpy as np


def relative_error(a, b):
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


def check_gradients(loss, arrays, gradients):
    """Assert that each gradient matches finite differences of `loss()`.

    `arrays` and `gradients` map names to arrays, in the order of the forward pass. The backward
    pass starts at the end, and a fault spoils everything that it computes later. So the last wrong
    gradient in this order is the one nearest to the fault, and the message names it first.
    """
    assert gradients.keys() == arrays.keys()
    wrong = {}
    for name, array in arrays.items():
        assert gradients[name].shape == array.shape, f"gradient of {name} has the wrong shape"
        error = relative_error(gradients[name], finite_differences(loss, array))
        if not error < 1e-6:
            wrong[name] = f"{name} (relative error {error:.1g})"
    nearest_first = list(reversed(wrong.values()))
    assert not wrong, f"wrong gradients, nearest to the fault first: {', '.join(nearest_first)}"
