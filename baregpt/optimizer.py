"""Adam and Muon, and the learning-rate schedule."""

import numpy as np

MUON_MOMENTUM = 0.95


def schedule(step, settings):
    """Share of the full learning rate at a step, from 1: linear warm-up, then linearly down to almost 0 at the end."""
    steps, warmup = settings.steps + 1, settings.warmup_steps
    return min(step / max(1, warmup), (steps - step) / max(1, steps - warmup))


def orthogonalize(matrix):
    """Move all singular values of a matrix close to 1: four Newton-Schulz steps with the coefficients of Muon."""
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    if len(x) > x.shape[1]:
        return orthogonalize(matrix.T).T
    gram, total = x @ x.T, np.eye(len(x), dtype=x.dtype)
    for _ in range(4):  # x <- (a + b xxᵀ + c (xxᵀ)²) x, worked out on the small xxᵀ alone
        factor = -4.7750 * gram + 2.0315 * gram @ gram
        factor.flat[:: len(x) + 1] += 3.4445
        total, gram = factor @ total, factor @ gram @ factor
    return total @ x


class Optimizer:
    """Adam with bias correction (Kingma and Ba 2015, arXiv:1412.6980), in place on parameters, name -> array.

    With a `muon_learning_rate`, the matrices of the blocks are trained by Muon instead (Jordan et al. 2024): momentum
    whose step is orthogonalized, so that it is as long in all directions.
    """

    def __init__(self, parameters, settings):
        self.parameters, self.settings = parameters, settings
        self.mean, self.square = ({name: np.zeros_like(p) for name, p in parameters.items()} for _ in range(2))

    def update(self, gradients, step, parallel_map=map):
        """Take step number `step`, from 1, along the gradients; `parallel_map` may spread the work over threads."""
        s, scale = self.settings, schedule(step, self.settings)

        def update_parameter(name):
            p, g, m, v = self.parameters[name], gradients[name], self.mean[name], self.square[name]
            if p.ndim == 2 and s.muon_learning_rate and name.startswith("blocks"):
                m += (1 - MUON_MOMENTUM) * (g - m)
                direction = orthogonalize(g + MUON_MOMENTUM * (m - g))  # looks ahead, as Nesterov's does
                p -= scale * s.muon_learning_rate * max(1, p.shape[1] / len(p)) ** 0.5 * direction
                return
            m *= s.beta1
            m += (1 - s.beta1) * g
            v *= s.beta2
            v += (1 - s.beta2) * g * g
            # both averages started at zero: hence the divisors
            p -= scale * s.learning_rate / (1 - s.beta1**step) * m / (np.sqrt(v / (1 - s.beta2**step)) + 1e-8)

        list(parallel_map(update_parameter, self.parameters))
