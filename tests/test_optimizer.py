import numpy as np
import pytest

from baregpt.optimizer import Adam, scheduled_learning_rate
from baregpt.trainer import Training


def test_adam_takes_the_steps_of_the_paper():
    random = np.random.default_rng(0)
    start = random.normal(size=20_000)  # more than one chunk
    gradients = random.normal(size=(5, 20_000))
    parameters = start.copy()
    optimizer = Adam(parameters, beta1=0.9, beta2=0.99)
    m, v, expected = 0, 0, start
    for t, g in enumerate(gradients, start=1):
        optimizer.update(g, t, learning_rate=0.1)
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g**2
        expected = expected - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    assert parameters == pytest.approx(expected, rel=1e-9)


def test_the_learning_rate_warms_up_peaks_and_falls_to_its_end():
    settings = Training(steps=1000, warmup_steps=100, learning_rate=0.5, final_learning_rate=0.1)
    rates = [scheduled_learning_rate(step, settings) for step in range(1, 1001)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[99] == max(rates) == pytest.approx(0.5)
    assert rates[549] == pytest.approx(0.3)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[99:] == sorted(rates[99:], reverse=True)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 5), (5, 100), (5, 0)])
def test_the_schedule_holds_for_the_shortest_runs(steps, warmup):
    settings = Training(steps=steps, warmup_steps=warmup)
    rates = [scheduled_learning_rate(step, settings) for step in range(1, steps + 1)]
    assert all(0 < rate <= settings.learning_rate for rate in rates)
