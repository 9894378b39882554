"""Exercise 1."""

import numpy as np

from baregpt import layers
from exercises.exercise import Exercise
from exercises.gradients import finite_differences

backward = layers.cross_entropy_backward  # kept, because training replaces it


def cross_entropy_backward(logits, targets):
    return backward(layers.cross_entropy(logits, targets)[1])


def cases():
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(0, 2, (6, 4)), np.array([2, 0, 2, 3, 1, 2])
    for moved in (logits, logits + 1000):
        dlogits = finite_differences(lambda x=moved: layers.cross_entropy(x, targets)[0], moved)
        yield (moved, targets), [dlogits]


def one_hot(logits, targets):
    return np.eye(logits.shape[1])[targets]


def without_mean(logits, targets):
    return cross_entropy_backward(logits, targets) * len(logits)


def mean_twice(logits, targets):
    return cross_entropy_backward(logits, targets) / len(logits)


def mean_over_all_logits(logits, targets):
    return cross_entropy_backward(logits, targets) / logits.shape[1]


def without_target(logits, targets):
    return cross_entropy_backward(logits, targets) + one_hot(logits, targets) / len(logits)


def opposite_sign(logits, targets):
    return -cross_entropy_backward(logits, targets)


def target_of_every_row(logits, targets):
    used_by_any_row = one_hot(logits, targets).any(axis=0)
    return without_target(logits, targets) - used_by_any_row / len(logits)


def softmax_over_everything(logits, targets):
    probabilities = np.exp(logits - logits.max())
    return (probabilities / probabilities.sum() - one_hot(logits, targets)) / len(logits)


def everything_without_mean(logits, targets):
    return softmax_over_everything(logits, targets) * len(logits)


def softmax_over_rows(logits, targets):
    return (layers.softmax(logits.T).T - one_hot(logits, targets)) / len(logits)


def overflow(logits, targets):
    return (np.exp(logits) / np.exp(logits).sum(1)[:, None] - one_hot(logits, targets)) / len(
        logits
    )


def logits_for_probabilities(logits, targets):
    return (logits - one_hot(logits, targets)) / len(logits)


EXERCISE = Exercise(
    1,
    "cross_entropy",
    cross_entropy_backward,
    ("dlogits",),
    cases,
    "finite differences",
    {
        without_mean: "The loss is the mean over the rows, but this is the gradient of their sum.",
        mean_twice: "This divides by the number of rows twice.",
        mean_over_all_logits: "The mean runs over the N rows, not over all N·V logits.",
        without_target: "The second term of the loss is missing: the target's own logit.",
        opposite_sign: "The sign is reversed: this is the gradient of the log-likelihood.",
        target_of_every_row: "In every row, 1 is subtracted at the targets of all rows: each row "
        "has one target of its own.",
        softmax_over_everything: "The softmax sums over the whole array: each row needs a sum of "
        "its own.",
        everything_without_mean: "The softmax sums over the whole array: each row needs a sum of "
        "its own. And the mean over the rows is missing.",
        softmax_over_rows: "The softmax sums over the rows: it must sum over the logits of a row.",
        overflow: "The formula is correct, but exp overflows for large logits: a softmax stays the "
        "same if the largest logit of its row is subtracted from all of the row first.",
        logits_for_probabilities: "The target's part is correct, but the derivative of log Σ exp "
        "is not the logit.",
    },
    (
        "Each logit affects the loss of its own row only. Find the derivative of log Σ "
        "exp(logits) for that row: the chain rule gives a quotient that you know.",
        "The first term gives the softmax of the row. The second term, -logits[target], gives -1 "
        "at the target and 0 everywhere else.",
        "So the gradient is the softmax minus a one-hot row, divided by N, since the loss is a "
        "mean. Subtract each row's largest logit before exp.",
    ),
)
