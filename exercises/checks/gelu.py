"""Exercise 3."""

import math

import numpy as np

from baregpt import layers
from baregpt.layers import GELU_CUBIC, GELU_SCALE
from exercises.exercise import Exercise
from exercises.gradients import finite_differences

gelu = layers.gelu  # kept, because training replaces it


def gelu_slope(x):
    return gelu(x)[1]


def cases():
    x = np.random.default_rng(3).normal(0, 1.5, (4, 5))
    yield (x,), [finite_differences(lambda: float(gelu(x)[0].sum()), x)]


def tanh_of(x):
    return np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))


def gate(x):
    return (1 + tanh_of(x)) / 2


def second_term(x):
    """x times the derivative of the gate: the second term of the product rule."""
    return gelu_slope(x) - gate(x)


def inner(x):
    return GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2)


def without_second_term(x):
    return gate(x)


def without_first_term(x):
    return second_term(x)


def without_x(x):
    return gate(x) + second_term(x) / x


def without_inner(x):
    return gate(x) + second_term(x) / inner(x)


def without_three(x):
    return gate(x) + second_term(x) / inner(x) * GELU_SCALE * (1 + GELU_CUBIC * x**2)


def without_scale(x):
    return gate(x) + second_term(x) / GELU_SCALE


def without_square(x):
    return gate(x) + second_term(x) / (1 + tanh_of(x))


def without_half(x):
    return gate(x) + 2 * second_term(x)


def exact_form(x):
    normal_cdf = (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return normal_cdf + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


EXERCISE = Exercise(
    3,
    "gelu",
    gelu_slope,
    ("slope",),
    cases,
    "finite differences",
    {
        without_second_term: "x also affects y through the gate: the second term of the product "
        "rule is missing.",
        without_first_term: "x also affects y as a factor: the first term of the product rule is "
        "missing.",
        without_x: "In the product rule, the derivative of the gate must be multiplied by x.",
        without_inner: "The chain rule is not finished: the derivative of u with respect to x is "
        "missing.",
        without_three: "The derivative of the cubic term of u lacks its factor 3.",
        without_scale: "The derivative of u lacks the factor √(2/π).",
        without_square: "The derivative of tanh u has the square of tanh u in it.",
        without_half: "The derivative of the gate lacks the factor 1/2 that the gate has.",
        exact_form: "This is the derivative of GELU's exact form with the error function: it is "
        "close, but the exercise asks for the form with tanh.",
    },
    (
        "y is a product of x and the gate: use the product rule. The first term is the gate.",
        "The second term is x times the derivative of the gate. By the chain rule, this is half "
        "of the derivative of tanh u with respect to u, times the derivative of u.",
        "The derivative of u is √(2/π) (1 + 3 · 0.044715 x²), so the second term is x (1 - tanh² "
        "u) / 2 times this.",
    ),
)
