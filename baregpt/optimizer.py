"""Adam and Muon, and the learning-rate schedule."""

import numpy as np

MUON_MOMENTUM = 0.95


def lr_scale(step, config):
    """Return the learning-rate multiplier of a step, counted from 1.

    Linear warm-up over config.warmup_steps, then linear decay that reaches 0 at steps + 1.
    """
    stop, warmup = config.steps + 1, config.warmup_steps
    return min(step / max(1, warmup), (stop - step) / max(1, stop - warmup))


def orthogonalize(matrix):
    """Approximate U Vᵀ, the semi-orthogonal matrix nearest to `matrix` = U S Vᵀ.

    Five Newton-Schulz steps, x <- a x + (b x xᵀ + c (x xᵀ)²) x. With x = U S Vᵀ, x xᵀ = U S² Uᵀ, so
    a step is U (a S + b S³ + c S⁵) Vᵀ: it changes the singular values only. The Frobenius norm is
    at least the largest of them, so dividing by it brings all into [0, 1]. Jordan et al. 2024
    (https://kellerjordan.github.io/posts/muon) chose a, b and c for a large slope at 0, so that
    small values grow fast: five steps bring nearly all of them to about 0.7 to 1.2, which is close
    enough to 1.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalize(matrix.T).T  # x xᵀ is the smaller of the two Gram matrices
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Optimizer:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980), or Muon (Jordan et al. 2024) for the matrices of
    the blocks if config.muon_learning_rate is not 0. It updates the parameters in place.

    Muon is momentum whose update is orthogonalized, so that it is equally large in all directions.
    config.weight_decay is decoupled weight decay, as in AdamW (Loshchilov and Hutter 2019,
    arXiv:1711.05101); it applies to the matrices of the blocks only.

    `m` and `v` map each parameter's name to its first and second moment. Muon keeps its momentum in
    `m` and does not use `v`.
    """

    def __init__(self, parameters, config):
        self.parameters = parameters
        self.config = config
        self.m = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: np.zeros_like(p) for name, p in parameters.items()}

    def update(self, gradients, step, parallel_map=map):
        """Apply the gradients of step number `step`, counted from 1.

        `parallel_map` may distribute the parameters over threads.
        """
        config = self.config
        scale = lr_scale(step, config)

        def update_parameter(name):
            is_block_matrix = name.endswith((".qkv", ".out", ".w1", ".w2"))
            use_muon = config.muon_learning_rate and is_block_matrix
            lr = scale * (config.muon_learning_rate if use_muon else config.learning_rate)
            if config.weight_decay and is_block_matrix:
                self.parameters[name] *= 1 - lr * config.weight_decay
            rule = self.muon if use_muon else self.adam
            rule(name, gradients[name], step, lr)

        list(parallel_map(update_parameter, self.parameters))

    def adam(self, name, gradient, step, lr):
        """p -= lr · m̂ / (√v̂ + ε), with bias correction: m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ).

        m = β₁ m + (1 - β₁) g and v = β₂ v + (1 - β₂) g² are weighted sums of past gradients g and
        of their squares. They start at 0, so after t steps the coefficients sum to 1 - βᵗ instead
        of 1.
        """
        p, m, v = self.parameters[name], self.m[name], self.v[name]
        beta1, beta2 = self.config.beta1, self.config.beta2
        m *= beta1
        m += (1 - beta1) * gradient
        v *= beta2
        v += (1 - beta2) * gradient * gradient
        p -= lr / (1 - beta1**step) * m / (np.sqrt(v / (1 - beta2**step)) + 1e-8)

    def muon(self, name, gradient, step, lr):
        """p -= lr · √max(1, columns / rows) · orthogonalize(Nesterov momentum).

        The momentum is m = μ m + (1 - μ) g, and Nesterov's is μ m + (1 - μ) g with the new m. A
        semi-orthogonal matrix has entries of RMS 1 / √max(rows, columns); the factor makes it
        1 / √rows for every shape. Query, key and value projections are orthogonalized separately.
        """
        p, m = self.parameters[name], self.m[name]
        m += (1 - MUON_MOMENTUM) * (gradient - m)
        nesterov = gradient + MUON_MOMENTUM * (m - gradient)
        matrices = np.split(nesterov, 3 if name.endswith(".qkv") else 1, axis=1)
        direction = np.hstack([orthogonalize(matrix) for matrix in matrices])
        rows, columns = matrices[0].shape
        p -= lr * max(1, columns / rows) ** 0.5 * direction
