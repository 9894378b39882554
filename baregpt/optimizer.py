"""Adam and Muon, and the learning-rate schedule."""

import numpy as np

MUON_MOMENTUM = 0.95


def schedule(step, settings):
    """Share of the full learning rate at a step, from 1: linear warm-up, then linearly down to
    almost 0 at the end.
    """
    stop = settings.steps + 1
    warmup = settings.warmup_steps
    return min(step / max(1, warmup), (stop - step) / max(1, stop - warmup))


def orthogonalize(matrix):
    """Move all singular values of a matrix close to 1: five Newton-Schulz steps with the
    coefficients of Muon.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalize(matrix.T).T
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(5):  # x <- (a + b xxᵀ + c (xxᵀ)²) x
        gram = x @ x.T
        factor = -4.7750 * gram + 2.0315 * gram @ gram
        factor.flat[:: len(x) + 1] += 3.4445
        x = factor @ x
    return x


class Optimizer:
    """Adam with bias correction (Kingma and Ba 2015, arXiv:1412.6980), in place on parameters, name
    -> array.

    With a `muon_learning_rate`, the matrices of the blocks are trained by Muon instead (Jordan et
    al. 2024): momentum whose step is orthogonalized, so that it is as long in all directions. With
    a `weight_decay` they also shrink in each step, by the rate times that: apart from the gradient
    (Loshchilov and Hutter 2019, arXiv:1711.05101).
    """

    def __init__(self, parameters, settings):
        self.parameters = parameters
        self.settings = settings
        self.m = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: np.zeros_like(p) for name, p in parameters.items()}

    def update(self, gradients, step, parallel_map=map):
        """Take step number `step`, from 1, along the gradients; `parallel_map` may spread the work
        over threads.
        """
        s = self.settings
        share = schedule(step, s)

        def update_parameter(name):
            is_matrix = name.endswith((".qkv", ".out", ".w1", ".w2"))
            by_muon = s.muon_learning_rate and is_matrix
            rate = share * (s.muon_learning_rate if by_muon else s.learning_rate)
            if s.weight_decay and is_matrix:
                self.parameters[name] *= 1 - rate * s.weight_decay
            rule = self.muon if by_muon else self.adam
            rule(name, gradients[name], step, rate)

        list(parallel_map(update_parameter, self.parameters))

    def adam(self, name, gradient, step, rate):
        """Both averages started at zero: hence the divisors."""
        p, m, v = self.parameters[name], self.m[name], self.v[name]
        beta1, beta2 = self.settings.beta1, self.settings.beta2
        m *= beta1
        m += (1 - beta1) * gradient
        v *= beta2
        v += (1 - beta2) * gradient * gradient
        p -= rate / (1 - beta1**step) * m / (np.sqrt(v / (1 - beta2**step)) + 1e-8)

    def muon(self, name, gradient, step, rate):
        """The direction looks ahead, as Nesterov's momentum does; queries, keys and values are
        matrices of their own.
        """
        p, m = self.parameters[name], self.m[name]
        m += (1 - MUON_MOMENTUM) * (gradient - m)
        ahead = gradient + MUON_MOMENTUM * (m - gradient)
        parts = np.split(ahead, 3 if name.endswith(".qkv") else 1, axis=1)
        direction = np.hstack([orthogonalize(part) for part in parts])
        stretch = max(1, parts[0].shape[1] / len(p)) ** 0.5
        p -= rate * stretch * direction
