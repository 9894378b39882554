import dataclasses

import numpy as np
import pytest

from baregpt.optimizer import Optimizer, lr_scale, orthogonalize
from baregpt.trainer import TrainConfig

CONFIG = TrainConfig(steps=10, warmup_steps=0, learning_rate=0.1, beta1=0.9, beta2=0.99)


def scales():
    return [lr_scale(step, CONFIG) for step in range(1, 6)]


def test_adam_matches_the_paper():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(20, 30)), rng.normal(size=(5, 20, 30))
    parameters = {"blocks.0.mlp.w1": start.copy()}
    optimizer = Optimizer(parameters, CONFIG)
    m, v, expected = 0, 0, start
    for t, g in enumerate(gradients, start=1):
        optimizer.update({"blocks.0.mlp.w1": g}, t)
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g**2
        expected = expected - 0.1 * scales()[t - 1] * (m / (1 - 0.9**t)) / (
            np.sqrt(v / (1 - 0.99**t)) + 1e-8
        )
    assert parameters["blocks.0.mlp.w1"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (32, 8)])
def test_orthogonalize_moves_all_singular_values_close_to_one(shape):
    left, _, right = np.linalg.svd(np.random.default_rng(0).normal(size=shape), full_matrices=False)
    matrix = left * np.geomspace(0.03, 1, 8) @ right
    result = orthogonalize(matrix.astype(np.float32))
    assert result.dtype == np.float32
    values = np.diag(left.T @ result @ right.T)  # the singular directions stay
    assert left * values @ right == pytest.approx(result, abs=1e-3)
    assert 0.6 < values.min() <= values.max() < 1.3


def test_muon_updates_block_matrices_and_adam_the_rest():
    rng = np.random.default_rng(0)
    names = "blocks.0.mlp.w1", "blocks.0.ln1.gain", "head.weight"
    start = {
        name: rng.normal(size=shape) for name, shape in zip(names, [(3, 6), 3, (3, 6)], strict=True)
    }
    gradients = [{name: rng.normal(size=p.shape) for name, p in start.items()} for _ in range(4)]
    both, adam = ({name: p.copy() for name, p in start.items()} for _ in range(2))
    with_muon = Optimizer(both, dataclasses.replace(CONFIG, muon_learning_rate=0.02))
    without = Optimizer(adam, CONFIG)
    mean, expected = 0, start[names[0]]
    for t, gradient in enumerate(gradients, start=1):
        with_muon.update(gradient, t)
        without.update(gradient, t)
        mean = 0.95 * mean + 0.05 * gradient[names[0]]
        step = orthogonalize(0.05 * gradient[names[0]] + 0.95 * mean)
        expected = expected - 0.02 * scales()[t - 1] * np.sqrt(2) * step
    assert both[names[0]] == pytest.approx(expected, rel=1e-9)
    for name in names[1:]:
        assert (both[name] == adam[name]).all()


def test_muon_orthogonalizes_query_key_and_value_projections_separately():
    rng = np.random.default_rng(0)
    start, gradient = rng.normal(size=(4, 12)), rng.normal(size=(4, 12))
    parameters = {"blocks.0.attention.qkv": start.copy()}
    config = dataclasses.replace(CONFIG, muon_learning_rate=0.02)
    Optimizer(parameters, config).update({"blocks.0.attention.qkv": gradient}, 1)
    # all three are square, so the factor is 1; orthogonalize ignores the scale
    parts = [orthogonalize(part) for part in np.split(gradient, 3, axis=1)]
    expected = start - 0.02 * scales()[0] * np.hstack(parts)
    assert parameters["blocks.0.attention.qkv"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("muon", "rate"), [(0.0, 0.1), (0.02, 0.02)])
def test_weight_decay_is_decoupled_and_applies_to_block_matrices_only(muon, rate):
    start = np.random.default_rng(0).normal(size=(4, 4))
    names = "blocks.0.mlp.w1", "blocks.0.ln1.gain", "head.weight"
    parameters = {name: start.copy() for name in names}
    nothing = {name: np.zeros_like(start) for name in parameters}
    config = dataclasses.replace(CONFIG, muon_learning_rate=muon, weight_decay=0.5)
    Optimizer(parameters, config).update(nothing, 1)
    assert parameters[names[0]] == pytest.approx(start * (1 - rate * scales()[0] * 0.5))
    for name in names[1:]:
        assert (parameters[name] == start).all()


def test_learning_rate_warms_up_and_decays_linearly():
    scales = [lr_scale(step, TrainConfig(steps=1000, warmup_steps=100)) for step in range(1, 1001)]
    assert scales[0] == pytest.approx(0.01)
    assert scales[99] == max(scales) == 1
    assert scales[549] == pytest.approx(0.5, abs=0.001)
    assert 0 < scales[-1] < 0.002
    assert scales[99:] == sorted(scales[99:], reverse=True)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 5), (5, 100), (5, 0)])
def test_learning_rate_stays_positive_in_short_runs(steps, warmup):
    config = TrainConfig(steps=steps, warmup_steps=warmup)
    assert all(0 < lr_scale(step, config) <= 1 for step in range(1, steps + 1))
