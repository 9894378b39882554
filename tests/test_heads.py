"""The statistics of attention heads, against direct computations."""

import math

import numpy as np
import pytest

from baregpt import GPT, Config
from pipeline.common.heads import head_statistics

CONFIG = Config(vocab_size=11, block_size=8, d_model=12, n_heads=3, n_layers=2)
IDS = np.random.default_rng(1).integers(0, 11, 60)  # room for seven windows
STARTS = [0, 16, 32]  # of three windows, spread evenly


def new_model():
    """Return a model in which every head has an effect."""
    model = GPT(CONFIG, seed=1)
    model.flat += np.random.default_rng(2).normal(0, 0.3, model.flat.shape).astype(np.float32)
    return model


def loss_without(heads):
    """Return the mean loss of a model with some (layer, head) switched off."""
    model = new_model()
    for layer, head in heads:
        model.parameters[f"blocks.{layer}.attention.out"][4 * head : 4 * head + 4] = 0
    windows = np.stack([IDS[start : start + 9] for start in STARTS])
    return model.loss(windows[:, :-1], windows[:, 1:])


def test_losses_match_a_direct_computation():
    model = new_model()
    before = model.flat.copy()
    found = head_statistics(model, IDS, max_windows=3)
    assert (model.flat == before).all()
    assert (found.n_windows, found.length) == (3, 8)
    everything = [(layer, head) for layer in range(2) for head in range(3)]
    loss = loss_without([])
    assert found.loss == pytest.approx(loss, abs=1e-5)
    assert found.increase_all_off == pytest.approx(loss_without(everything) - loss, abs=1e-5)
    for layer, head in everything:
        increase = loss_without([(layer, head)]) - loss
        assert abs(increase) > 1e-3
        assert found.increases[layer, head] == pytest.approx(increase, abs=1e-5)


def test_entropies_match_a_direct_computation():
    model = new_model()
    found = head_statistics(model, IDS, max_windows=3).entropies
    for layer in range(2):
        for head in range(3):
            entropies, even = [], []
            for start in STARTS:
                attn = model.attention(IDS[None, start : start + 8])[layer][0, head]
                for i in range(8):
                    entropies.append(-sum(p * math.log(p) for p in attn[i, : i + 1].tolist()))
                    even.append(math.log(i + 1))
            assert found[layer, head] == pytest.approx(np.mean(entropies) / np.mean(even), abs=1e-5)


def test_entropy_fraction_is_1_for_uniform_and_0_for_one_key_attention():
    model = GPT(CONFIG)
    qkv = model.parameters["blocks.0.attention.qkv"]
    qkv[...] = 0
    assert head_statistics(model, IDS).entropies[0] == pytest.approx(1, abs=1e-5)
    model.parameters["token_embedding"][...] = 0
    model.parameters["position_embedding"][...] = 0
    model.parameters["position_embedding"][0, 0] = 1  # the first position alone
    model.parameters["blocks.0.ln1.bias"][1] = 1  # a constant, of which every query is made
    qkv[0, 12:24] = 1e4
    qkv[1, :12] = 1e4
    assert head_statistics(model, IDS).entropies[0] == pytest.approx(0, abs=1e-5)


def test_a_text_without_room_for_a_window_is_refused():
    with pytest.raises(ValueError, match="windows of at least 2 characters, not 1"):
        head_statistics(new_model(), IDS[:2])
    assert head_statistics(new_model(), IDS[:5]).length == 4
