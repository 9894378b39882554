"""Train a small GPT with the functions of the exercises in place of baregpt's own."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from baregpt import GPT, Config, TrainConfig, Vocab, generate, layers, sampler, train
from baregpt.optimizer import Optimizer
from exercises.checks import EXERCISES
from exercises.gradients import wrong_gradients

PLAYS = Path(__file__).parents[1] / "data/plays.txt"
STEPS = 600
PROGRESS_LINES = 12


@contextmanager
def substituted(functions):
    """Replace baregpt's functions. `functions` maps the name of each exercise's function to a
    solution.

    Each replacement has the signature of baregpt's function and calls those of the exercises.
    """
    f = SimpleNamespace(**functions)
    gelu, attention_of_baregpt = layers.gelu, layers.attention

    def cross_entropy_backward(saved):
        # A softmax stays the same if a constant is added to a row: log-probabilities are logits.
        return f.cross_entropy_backward(saved.log_probabilities, saved.at_targets[1])

    def gelu_with_slope(x):
        return gelu(x)[0], f.gelu_slope(x)

    def mlp_backward(dy, saved):
        dhidden, dw2, db2 = f.linear_backward(dy, saved.hidden, saved.w2)
        dx, dw1, db1 = f.linear_backward(dhidden * saved.slope, saved.x, saved.w1)
        return dx, {"w1": dw1, "b1": db1, "w2": dw2, "b2": db2}

    def layer_norm_backward(dy, saved):
        arguments = dy, saved.normalized, saved.inverse_std, saved.gain
        dx, dgain, dbias = f.layer_norm_backward(*arguments)
        return dx, {"gain": dgain, "bias": dbias}

    def embedding_backward(dy, saved):
        block_size = len(saved.positions)
        gradients = f.embedding_backward(dy, saved.ids, saved.vocab_size, block_size)
        return None, dict(zip(("token_embedding", "position_embedding"), gradients))

    def attention(x, w_qkv, w_out, n_heads, length, rope_phases=None, kv=None):
        y, saved = attention_of_baregpt(x, w_qkv, w_out, n_heads, length, rope_phases, kv)
        if kv is not None and length > 1:  # exercise 13 is about one position
            return y, saved
        query, key, value = saved.query, saved.key, saved.value
        by_head = saved.head_out.reshape(-1, length, n_heads, query.shape[3]).swapaxes(1, 2)
        saved.attn = np.empty((*query.shape[:3], key.shape[2]), x.dtype)  # (B, H, T, S)
        for i in np.ndindex(query.shape[:2]):  # each sequence and head
            if kv is None:
                by_head[i], saved.attn[i] = f.attention_head(query[i], key[i], value[i])
            else:
                last = key.shape[2] - 1
                new = query[i][0], key[i][last], value[i][last]
                by_head[i], _ = f.attention_step(*new, kv[:, *i], last)
        return saved.head_out @ w_out, saved

    def attention_backward(dy, saved):
        dhead_out, dw_out, _ = f.linear_backward(dy, saved.head_out, saved.w_out)
        heads = saved.query, saved.key, saved.value, saved.attn
        dqkv = f.heads_backward(dhead_out, *heads, f.attention_head_backward)
        dx, dw_qkv, _ = f.linear_backward(dqkv, saved.x, saved.w_qkv)
        return dx, {"qkv": dw_qkv, "out": dw_out}

    def block_backward(dy, saved):
        gradients = {}

        def layer(name, function):
            def backward(dy):
                dx, by_name = function(dy, getattr(saved, name))
                gradients.update({f"{name}.{key}": gradient for key, gradient in by_name.items()})
                return dx

            return backward

        dx = f.block_backward(
            dy,
            layer("ln1", layer_norm_backward),
            layer("attention", attention_backward),
            layer("ln2", layer_norm_backward),
            layer("mlp", mlp_backward),
        )
        return dx, gradients

    def adam(self, name, gradient, step, lr):
        p, m, v = self.parameters[name], self.m[name], self.v[name]
        betas = self.config.beta1, self.config.beta2
        p[...], m[...], v[...] = f.adam(p, m, v, gradient, step, lr, *betas)

    def sample(logits, temperature, top_k, rng):
        return f.sample(logits, temperature, top_k, rng.gumbel(size=logits.shape))

    replacements = [
        (layers, "cross_entropy_backward", cross_entropy_backward),
        (layers, "gelu", gelu_with_slope),
        (layers, "mlp_backward", mlp_backward),
        (layers, "softmax_backward", f.softmax_backward),
        (layers, "layer_norm_backward", layer_norm_backward),
        (layers, "embedding_backward", embedding_backward),
        (layers, "attention", attention),
        (layers, "attention_backward", attention_backward),
        (layers, "block_backward", block_backward),
        (Optimizer, "adam", adam),
        (sampler, "sample", sample),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    try:
        for replacement in replacements:
            setattr(*replacement)
        yield
    finally:
        for original in originals:
            setattr(*original)


def gradient_problem(functions):
    """Return None if all gradients of a tiny GPT match finite differences, else a sentence."""
    rng = np.random.default_rng(0)
    model = GPT(Config(3, block_size=4, d_model=4, n_heads=2, n_layers=1), dtype=np.float64)
    model.flat[:] = rng.normal(0, 0.4, model.n_parameters)
    ids, targets = rng.integers(0, 3, (2, 2, 3))
    with substituted(functions):
        try:
            _, gradients = model.loss_and_gradients(ids, targets)
        except Exception as error:  # a function may work only for the sizes in its exercise
            return f"Computing the gradients of a whole GPT raises {type(error).__name__}: {error}."
        wrong = wrong_gradients(lambda: model.loss(ids, targets), model.parameters, gradients)
    named = [f"{name} (relative error {error:.1g})" for name, error in wrong.items()]
    if wrong:
        return f"Wrong gradients in a whole GPT, closest to the bug first: {', '.join(named)}."
    return None


def print_progress(step, loss, model, vocab):
    """Print the loss and a line of generated text."""
    text = "".join(generate(model, vocab, "\n", 80, seed=step))
    line = " / ".join(text.split("\n"))[:60]
    print(f"step {step:4}: loss {loss:.2f}  {line}", flush=True)


def main(functions, steps=STEPS):
    """Check the gradients, train, and print losses and samples; return the exit code."""
    if problem := gradient_problem(functions):
        print(problem)
        for exercise in EXERCISES:
            if not gradient_problem(functions | {exercise.function: exercise.answer}):
                print(f"With baregpt's {exercise.function}, they are correct: see {exercise.file}.")
        return 1
    print("The gradients of the whole GPT match finite differences.")
    text = PLAYS.read_text(encoding="utf-8")
    vocab = Vocab.from_text(text)
    ids = vocab.encode(text)
    training, validation = np.split(ids, [len(ids) * 9 // 10])
    model = GPT(Config(len(vocab), block_size=64, d_model=96, n_heads=3, n_layers=2), seed=1)
    config = TrainConfig(
        steps=steps, batch_size=16, shards=2, warmup_steps=steps // 10, evaluation_interval=steps,
    )  # fmt: skip
    with substituted(functions):
        print_progress(0, model.loss(ids[None, :64], ids[None, 1:65]), model, vocab)
        for result in train(model, training, validation, config):
            step, loss, validation_loss, *_ = result
            if step % max(1, steps // PROGRESS_LINES) == 0:
                print_progress(step, loss, model, vocab)
        print(f"\nValidation loss: {validation_loss:.2f} nats per character.")
        print("Text from the GPT that you wrote:")
        for character in generate(model, vocab, "\n", 400, seed=1):
            print(character, end="", flush=True)
    print()
    return 0
