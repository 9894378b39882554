"""Exercise 11: Adam with bias correction.

Adam keeps two exponential moving averages for each parameter p: m of its gradients, and v of their
squares. Both start at 0. In step t = 1, 2, 3, ... with gradient g:

    m = β₁ m + (1 - β₁) g
    v = β₂ v + (1 - β₂) g²
    p = p - lr · m̂ / (√v̂ + ε)                    ε = 1e-8

m̂ and v̂ are m and v with their bias corrected: since m starts at 0, after the first step it is
only (1 - β₁) g, a tenth of the gradient for β₁ = 0.9.

Question: unroll m over t steps. With which weights does it sum the t gradients, and what is the sum
of these weights? Divide by it. The stored m and v stay uncorrected.
"""

import numpy as np


def adam(p, m, v, gradient, step, lr, beta1, beta2):
    """Return the new p, m and v. p, m, v and gradient have the same shape; `step` counts from 1."""
    ...
