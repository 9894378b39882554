"""Adam, and the learning-rate schedule."""

import math

import numpy as np

CHUNK = 1 << 18  # numbers updated at a time: few enough for the cache, many enough not to wait for each other


def scheduled_learning_rate(step, settings):
    """Linear warm-up to the peak, then half a cosine down to `final_learning_rate` at the last step; steps from 1."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    progress = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    height = (1 + math.cos(math.pi * progress)) / 2
    return settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * height


class Adam:
    """Adam with bias correction (Kingma and Ba 2015, arXiv:1412.6980), in place on one flat buffer."""

    def __init__(self, parameters, beta1, beta2, epsilon=1e-8):
        self.parameters, self.beta1, self.beta2, self.epsilon = parameters, beta1, beta2, epsilon
        self.mean, self.square = np.zeros_like(parameters), np.zeros_like(parameters)  # of the gradient

    def update(self, gradient, step, learning_rate, parallel_map=map):
        """Take step number `step`, from 1, along a flat gradient; `parallel_map` may spread the work over threads."""
        correction1, correction2 = 1 - self.beta1**step, 1 - self.beta2**step  # both averages started at zero

        def update_chunk(start):
            chunk = slice(start, start + CHUNK)
            g, m, v = gradient[chunk], self.mean[chunk], self.square[chunk]
            m *= self.beta1
            m += (1 - self.beta1) * g
            v *= self.beta2
            v += (1 - self.beta2) * g * g
            self.parameters[chunk] -= learning_rate / correction1 * m / (np.sqrt(v / correction2) + self.epsilon)

        list(parallel_map(update_chunk, range(0, len(gradient), CHUNK)))
