"""The gradient check of the exercises, as an assertion."""

from exercises.gradients import finite_differences, relative_error, wrong_gradients

__all__ = ["check_gradients", "finite_differences", "relative_error"]


def check_gradients(loss, arrays, gradients):
    """Assert that each gradient matches finite differences of `loss()`.

    `arrays` and `gradients` map names to arrays, in the order of the forward pass. The message
    names the wrong gradient closest to the bug first.
    """
    unpaired = sorted(arrays.keys() ^ gradients.keys())
    assert not unpaired, f"array without gradient, or gradient without array: {unpaired}"
    for name, array in arrays.items():
        assert gradients[name].shape == array.shape, f"gradient of {name} has the wrong shape"
    wrong = wrong_gradients(loss, arrays, gradients)
    named = [f"{name} (relative error {error:.1g})" for name, error in wrong.items()]
    assert not wrong, f"wrong gradients, closest to the bug first: {', '.join(named)}"
