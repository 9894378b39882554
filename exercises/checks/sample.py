"""Exercise 12."""

from types import SimpleNamespace

import numpy as np

from baregpt import sampler
from exercises.exercise import Exercise

original = sampler.sample  # kept, because training replaces it


def sample(logits, temperature, top_k, gumbel):
    noise = SimpleNamespace(gumbel=lambda size: gumbel)
    return original(logits, temperature, top_k, noise)


def cases():
    rng = np.random.default_rng(12)
    logits, gumbel = rng.normal(0, 2, (400, 8)).round(), rng.gumbel(size=(400, 8))  # many ties
    for temperature, top_k in ((0.7, 3), (0.7, 0), (0.7, 9), (0, 3)):
        arguments = logits, temperature, top_k, gumbel
        yield arguments, [sample(*arguments)]


def kth(logits, top_k):
    """The k-th largest logit of each row, (B, 1); the smallest if there is no limit."""
    k = min(top_k or logits.shape[1], logits.shape[1])
    return np.sort(logits)[:, -k, None]


def keeping(keep):
    """A mistake that keeps other logits: keep(logits, top_k) -> a mask."""

    def mistake(logits, temperature, top_k, gumbel):
        if not 0 < top_k < logits.shape[1]:
            return sample(logits, temperature, top_k, gumbel)
        return sample(np.where(keep(logits, top_k), logits, -np.inf), temperature, 0, gumbel)

    return mistake


def exactly_k(order):
    """A mistake that keeps the first k in an order: order(logits, k) -> indices, the best first."""

    def keep(logits, k):
        kept = np.zeros(logits.shape, bool)
        np.put_along_axis(kept, order(logits, k)[:, :k], True, axis=1)
        return kept

    return keeping(keep)


def without_upper_limit(sort):
    """A mistake that fails for a top_k larger than the number of logits."""

    def mistake(logits, temperature, top_k, gumbel):
        limit = sort(logits, top_k)[:, -top_k, None]
        return sample(np.where(logits < limit, -np.inf, logits), temperature, 0, gumbel)

    return mistake


def hidden_is_zero(logits, temperature, top_k, gumbel):
    return sample(np.where(logits < kth(logits, top_k), 0, logits), temperature, 0, gumbel)


def after_noise(logits, temperature, top_k, gumbel):
    noisy = logits + temperature * gumbel
    return np.where(noisy < kth(logits, top_k), -np.inf, noisy).argmax(axis=1)


def divided_by_zero(logits, temperature, top_k, gumbel):
    kept = np.where(logits < kth(logits, top_k), -np.inf, logits)
    return (kept / np.float64(temperature) + gumbel).argmax(axis=1)


def greedy(logits, temperature, top_k, gumbel):
    return sample(logits, 0, top_k, gumbel)


def without_temperature(logits, temperature, top_k, gumbel):
    return sample(logits, 1, top_k, gumbel)


def multiplied(logits, temperature, top_k, gumbel):
    return sample(logits * temperature, 1, top_k, gumbel)


def noise_subtracted(logits, temperature, top_k, gumbel):
    return sample(logits, temperature, top_k, -gumbel)


def whole_batch(logits, top_k):
    return logits >= np.sort(logits, axis=None)[-top_k]


TIES_CUT = "Ties are cut: of several logits equal to the k-th largest, only some are kept."
EXERCISE = Exercise(
    12,
    "sample",
    sample,
    ("ids",),
    cases,
    "baregpt's sample",
    {
        exactly_k(lambda logits, k: np.argsort(-logits)): TIES_CUT,
        exactly_k(lambda logits, k: np.argsort(-logits, kind="stable")): TIES_CUT,
        exactly_k(lambda logits, k: np.argsort(logits)[:, ::-1]): TIES_CUT,
        exactly_k(lambda logits, k: np.argsort(logits, kind="stable")[:, ::-1]): TIES_CUT,
        exactly_k(lambda logits, k: np.argpartition(logits, -k)[:, ::-1]): TIES_CUT,
        without_upper_limit(lambda logits, k: np.sort(logits)): "top_k may be larger than the "
        "number of logits, which means no limit.",
        without_upper_limit(lambda logits, k: np.partition(logits, -k)): "top_k may be larger than "
        "the number of logits, which means no limit.",
        keeping(lambda logits, k: logits > kth(logits, k)): "The k-th largest logit itself is "
        "dropped.",
        keeping(lambda logits, k: logits >= kth(logits, k + 1)): "One logit too many is kept: the "
        "threshold is the k-th largest one.",
        keeping(lambda logits, k: logits <= np.sort(logits)[:, k - 1, None]): "The k smallest "
        "logits are kept instead of the largest.",
        keeping(whole_batch): "The k-th largest logit is taken from the whole array: each row has "
        "its own.",
        keeping(lambda logits, k: np.ones(logits.shape, bool)): "top_k has no effect: all logits "
        "are kept.",
        hidden_is_zero: "The dropped logits become 0, and 0 may win: a dropped logit must never "
        "win.",
        after_noise: "The threshold is applied to logits with noise: noise must not lift a "
        "dropped logit.",
        divided_by_zero: "Temperature 0 divides by zero: it must give the largest logit.",
        greedy: "The noise has no effect: this is greedy decoding at every temperature.",
        without_temperature: "The temperature has no effect on the choice.",
        multiplied: "The temperature works the wrong way: a high one must make the choice more "
        "random.",
        noise_subtracted: "The noise is subtracted: Gumbel noise is not symmetric, so it must be "
        "added.",
    },
    (
        "Multiplying all numbers of a row by a positive number does not change the argmax: "
        "multiply logits / temperature + g by the temperature.",
        "For top-k, find the k-th largest logit of each row (np.sort or np.partition along the "
        "last axis). Pass `keepdims=True` or index with `None`, so that the result broadcasts.",
        "Set the logits below the threshold to -∞, add temperature times the noise, and take the "
        "argmax of each row. With top_k = 0 or top_k above V, leave the logits as they are.",
    ),
)
