import itertools

import numpy as np
import pytest

from baregpt import GPT, Config, Vocab, generate, generate_batch
from baregpt.sampler import sample

VOCAB = Vocab("abcdefghij")


def model_with(**options):
    config = Config(len(VOCAB), block_size=12, d_model=16, n_heads=2, n_layers=2, **options)
    model = GPT(config, dtype=np.float64)
    model.flat[:] = np.random.default_rng(0).normal(0, 0.3, model.n_parameters)
    return model


MODEL = model_with()


def text(model=MODEL, **options):
    return "".join(generate(model, VOCAB, **{"prompt": "abc", "max_new_tokens": 60} | options))


def greedy_without_cache(model, prompt, count):
    """The same, recomputed from scratch for each character, with the context that `generate`
    documents.
    """
    ids, context = list(VOCAB.encode(prompt)), list(VOCAB.encode(prompt))[-12:]
    for _ in range(count):
        ids.append(int(model.logits([context])[0, -1].argmax()))
        context = [*context, ids[-1]] if len(context) < 12 else ids[-3:]
    return VOCAB.decode(ids[len(prompt) :])


@pytest.mark.parametrize("prompt", ["a", "abc", "abcdefghijab", "abcdefghijabcdefghij"])
@pytest.mark.parametrize("options", [{}, {"rotary": True}])
def test_kv_cache_matches_recomputation_even_past_block_size(prompt, options):
    model = model_with(**options)
    without_cache = greedy_without_cache(model, prompt, 60)
    assert text(model, prompt=prompt, temperature=0) == without_cache


def test_seed_determines_the_text():
    assert text(seed=1) == text(seed=1)
    assert text(seed=1) != text(seed=2)
    assert text() != text()


def test_top_k_of_one_and_temperature_zero_are_greedy():
    assert text(top_k=1) == text(temperature=0)


def test_samples_follow_the_softmax():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    rng = np.random.default_rng(0)

    def frequencies(temperature, top_k):
        draws = sample(np.tile(logits, (20_000, 1)), temperature, top_k, rng)
        return np.bincount(draws, minlength=4) / len(draws)

    assert frequencies(1, 0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)
    assert frequencies(1, 2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.015)
    squares = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert frequencies(0.5, 9) == pytest.approx(squares / squares.sum(), abs=0.015)


def test_text_is_streamed():
    stream = generate(MODEL, VOCAB, "a", max_new_tokens=10**12)
    assert len(list(itertools.islice(stream, 100))) == 100


def test_block_size_one_works():
    model = GPT(Config(len(VOCAB), block_size=1, d_model=4, n_heads=1, n_layers=1))
    assert len("".join(generate(model, VOCAB, "abc", 20))) == 20


@pytest.mark.parametrize("count", [1, 3])
def test_generate_batch_returns_several_texts(count):
    columns = list(generate_batch(MODEL, VOCAB, "abc", count, 60, temperature=0))
    assert ["".join(column) for column in zip(*columns)] == [text(temperature=0)] * count
    drawn = {
        "".join(column) for column in zip(*generate_batch(MODEL, VOCAB, "abc", count, 60, seed=1))
    }
    assert len(drawn) == count


def test_zero_new_tokens_give_no_text():
    assert text(max_new_tokens=0) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "prompt must have at least one character"),
        ({"prompt": "aXb"}, "character 'X' at position 1 is not in the vocabulary"),
        ({"temperature": -1}, "temperature must be at least 0 and finite, got -1"),
        ({"temperature": float("nan")}, "temperature must .* got nan"),
        ({"top_k": -1}, "top_k must .* got -1"),
        ({"max_new_tokens": -5}, "max_new_tokens must .* got -5"),
        ({"seed": -1}, "seed must .* got -1"),
        ({"count": 0}, "count must be at least 1 .* got 0"),
    ],
)
def test_invalid_options_are_refused_before_sampling(options, message):
    with pytest.raises(ValueError, match=message):
        (generate_batch if "count" in options else generate)(
            MODEL, VOCAB, **{"prompt": "a"} | options
        )
