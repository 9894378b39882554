"""Exercise 11."""

import numpy as np

from baregpt import TrainConfig
from baregpt.optimizer import Optimizer
from exercises.exercise import Exercise

update = Optimizer.adam  # kept, because training replaces it


def adam(p, m, v, gradient, step, lr, beta1, beta2):
    optimizer = Optimizer({"p": p.copy()}, TrainConfig(beta1=beta1, beta2=beta2))
    optimizer.m["p"][...], optimizer.v["p"][...] = m, v
    update(optimizer, "p", gradient, step, lr)
    return optimizer.parameters["p"], optimizer.m["p"], optimizer.v["p"]


def cases():
    rng = np.random.default_rng(11)
    p, gradients = 0.01 * rng.normal(size=(2, 3)), 1e-4 * rng.normal(size=(4, 2, 3))
    gradients[:, 0, 0] = 0  # a parameter that is not used
    rates = 0.1, 0.9, 0.99
    m = v = np.zeros_like(p)
    for step in (1, 2):
        p, m, v = adam(p, m, v, gradients[step], step, *rates)
    for step in (3, 1):
        arguments = p, m, v, gradients[step], step, *rates
        yield arguments, adam(*arguments)
        m = v = np.zeros_like(p)


def with_update(change):
    """A mistake that updates p differently, from the correct m and v."""

    def mistake(p, m, v, gradient, step, lr, beta1, beta2):
        _, m, v = adam(p, m, v, gradient, step, lr, beta1, beta2)
        m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
        return p + lr * change(m, v, m_hat, v_hat), m, v

    return mistake


def earlier_step(p, m, v, gradient, step, lr, beta1, beta2):
    _, m, v = adam(p, m, v, gradient, step, lr, beta1, beta2)
    m_hat, v_hat = m / (1 - beta1 ** (step - 1)), v / (1 - beta2 ** (step - 1))
    return p - lr * m_hat / (np.sqrt(v_hat) + 1e-8), m, v


def corrected_by_beta_alone(p, m, v, gradient, step, lr, beta1, beta2):
    _, m, v = adam(p, m, v, gradient, step, lr, beta1, beta2)
    return p - lr * m / (1 - beta1) / (np.sqrt(v / (1 - beta2)) + 1e-8), m, v


def multiplied_by_step(p, m, v, gradient, step, lr, beta1, beta2):
    _, m, v = adam(p, m, v, gradient, step, lr, beta1, beta2)
    m_hat, v_hat = m / (1 - beta1 * step), v / (1 - beta2 * step)
    return p - lr * m_hat / (np.sqrt(v_hat) + 1e-8), m, v


def update_alone(p, m, v, gradient, step, lr, beta1, beta2):
    new, m, v = adam(p, m, v, gradient, step, lr, beta1, beta2)
    return new - p, m, v


def corrected_moments_stored(p, m, v, gradient, step, lr, beta1, beta2):
    p, m, v = adam(p, m, v, gradient, step, lr, beta1, beta2)
    return p, m / (1 - beta1**step), v / (1 - beta2**step)


def betas_swapped(p, m, v, gradient, step, lr, beta1, beta2):
    return adam(p, m, v, gradient, step, lr, beta2, beta1)


def gradient_not_squared(p, m, v, gradient, step, lr, beta1, beta2):
    _, m, _ = adam(p, m, v, gradient, step, lr, beta1, beta2)
    v = beta2 * v + (1 - beta2) * gradient
    v_hat = v / (1 - beta2**step)
    return p - lr * m / (1 - beta1**step) / (np.sqrt(v_hat) + 1e-8), m, v


def weights_swapped(p, m, v, gradient, step, lr, beta1, beta2):
    m, v = (1 - beta1) * m + beta1 * gradient, (1 - beta2) * v + beta2 * gradient**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return p - lr * m_hat / (np.sqrt(v_hat) + 1e-8), m, v


def full_gradient_added(p, m, v, gradient, step, lr, beta1, beta2):
    m, v = beta1 * m + gradient, beta2 * v + gradient**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return p - lr * m_hat / (np.sqrt(v_hat) + 1e-8), m, v


def old_moments(p, m, v, gradient, step, lr, beta1, beta2):
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    _, m, v = adam(p, m, v, gradient, step, lr, beta1, beta2)
    return p - lr * m_hat / (np.sqrt(v_hat) + 1e-8), m, v


EXERCISE = Exercise(
    11,
    "adam",
    adam,
    ("p", "m", "v"),
    cases,
    "baregpt's Adam",
    {
        with_update(lambda m, v, m_hat, v_hat: -m / (np.sqrt(v) + 1e-8)): "The bias correction is "
        "missing: the first steps are scaled wrongly, since m and v start at 0.",
        earlier_step: "The bias correction counts the steps from 0, which divides by 0 in the "
        "first step: count from 1.",
        corrected_by_beta_alone: "The bias correction does not depend on the step, but it must "
        "approach 1 as the step number grows.",
        multiplied_by_step: "The bias correction multiplies β by the step, but β must be raised to "
        "the power of the step.",
        update_alone: "p is the update alone: it must be added to the old p.",
        corrected_moments_stored: "The corrected m and v are returned: the stored ones must stay "
        "uncorrected, or the next step corrects them again.",
        with_update(
            lambda m, v, m_hat, v_hat: -m_hat / (np.sqrt(v) + 1e-8)
        ): "Only m is corrected, but v is biased as well.",
        with_update(
            lambda m, v, m_hat, v_hat: -m / (np.sqrt(v_hat) + 1e-8)
        ): "Only v is corrected, but m is biased as well.",
        with_update(lambda m, v, m_hat, v_hat: m_hat / (np.sqrt(v_hat) + 1e-8)): "The sign is "
        "reversed: this is gradient ascent, so the loss increases.",
        with_update(lambda m, v, m_hat, v_hat: -m_hat / np.sqrt(v_hat + 1e-8)): "The ε is inside "
        "the square root: it must be added to the root.",
        with_update(lambda m, v, m_hat, v_hat: -m_hat / np.sqrt(v_hat)): "The ε is missing: a "
        "parameter whose gradient was always 0 becomes NaN.",
        with_update(lambda m, v, m_hat, v_hat: -m_hat / (v_hat + 1e-8)): "The square root of v̂ is "
        "missing.",
        with_update(lambda m, v, m_hat, v_hat: -m_hat): "The division by the root of v̂ is absent: "
        "this is momentum, not Adam.",
        betas_swapped: "β₁ and β₂ are swapped: β₁ belongs to m, β₂ to v.",
        gradient_not_squared: "v is a moving average of the gradients, but it must be one of "
        "their squares.",
        weights_swapped: "β and 1 - β are swapped: the moving average keeps most of its old value.",
        full_gradient_added: "The new gradient lacks its weight 1 - β, so m and v are not "
        "averages.",
        old_moments: "The update uses the old m and v: they must be updated with the new gradient "
        "first.",
    },
    (
        "Compute the new m and v first. For the correction, take a gradient that is always 1: what "
        "is m after one step, and after two?",
        "After t steps, m sums the gradients with the weights (1 - β₁) β₁^(t - s) for s = 1 to t. "
        "This is a geometric series.",
        "The weights add up to 1 - β₁^t, so m̂ = m / (1 - β₁^t), and likewise for v with β₂. Use "
        "m̂ and v̂ in the update, and return m and v.",
    ),
    in_place=True,
)
