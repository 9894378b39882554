"""Exercise 10."""

from functools import partial
from types import FunctionType

import numpy as np

from baregpt import layers
from exercises.exercise import Exercise
from exercises.gradients import gradients_by_differences

LAYERS = "ln1", "attention", "ln2", "mlp"


def run(dy, layer_backward):
    return layer_backward(dy), {}


# baregpt's block_backward, which gets each layer's backward pass in place of its saved activations.
backward = FunctionType(
    layers.block_backward.__code__,
    vars(layers)
    | dict.fromkeys(("layer_norm_backward", "attention_backward", "mlp_backward"), run),
)


def block_backward(dy, ln1_backward, attention_backward, ln2_backward, mlp_backward):
    layers_backward = ln1_backward, attention_backward, ln2_backward, mlp_backward
    saved = layers.Saved(**dict(zip(LAYERS, layers_backward)))
    saved.attn_dropout_mask = saved.mlp_dropout_mask = None
    return backward(dy, saved)[0]


def cases():
    rng = np.random.default_rng(10)
    x, dy = rng.normal(size=(2, 6, 4))
    shapes = {"attention.qkv": (4, 12), "attention.out": (4, 4), "mlp.w1": (4, 16)}
    shapes |= {"mlp.b1": (16,), "mlp.w2": (16, 4), "mlp.b2": (4,)}
    shapes |= {f"{norm}.{name}": (4,) for norm in ("ln1", "ln2") for name in ("gain", "bias")}
    p = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    forward = partial(layers.block, x, p, 2, 3)
    saved = forward()[1]

    def layer_backward(function, saved):
        return lambda dy: function(dy.copy(), saved)[0]

    functions = [
        layer_backward(layers.layer_norm_backward, saved.ln1),
        layer_backward(layers.attention_backward, saved.attention),
        layer_backward(layers.layer_norm_backward, saved.ln2),
        layer_backward(layers.mlp_backward, saved.mlp),
    ]
    yield (dy, *functions), gradients_by_differences(lambda: forward()[0], dy, x)


def nothing_around_mlp(dy, ln1, attention, ln2, mlp):
    dresidual = ln2(mlp(dy))
    return dresidual + ln1(attention(dresidual))


def nothing_around_attention(dy, ln1, attention, ln2, mlp):
    return ln1(attention(dy + ln2(mlp(dy))))


def nothing_around(dy, ln1, attention, ln2, mlp):
    return ln1(attention(ln2(mlp(dy))))


def attention_from_dy(dy, ln1, attention, ln2, mlp):
    return dy + ln2(mlp(dy)) + ln1(attention(dy))


def attention_from_mlp_path(dy, ln1, attention, ln2, mlp):
    through_mlp = ln2(mlp(dy))
    return dy + through_mlp + ln1(attention(through_mlp))


def only_dy_around(dy, ln1, attention, ln2, mlp):
    return dy + ln1(attention(dy + ln2(mlp(dy))))


def around_both_at_once(dy, ln1, attention, ln2, mlp):
    return dy + ln1(attention(ln2(mlp(dy))))


def dy_twice(dy, ln1, attention, ln2, mlp):
    return dy + block_backward(dy, ln1, attention, ln2, mlp)


def forward_order(dy, ln1, attention, ln2, mlp):
    dresidual = dy + mlp(ln2(dy))
    return dresidual + attention(ln1(dresidual))


def attention_first(dy, ln1, attention, ln2, mlp):
    dresidual = dy + ln1(attention(dy))
    return dresidual + ln2(mlp(dresidual))


EXERCISE = Exercise(
    10,
    "block",
    block_backward,
    ("dx",),
    cases,
    "finite differences",
    {
        nothing_around_mlp: "The gradient of the residual connection around the MLP is missing: "
        "the residual is also a term of y.",
        nothing_around_attention: "The gradient of the residual connection around attention is "
        "missing: x is also a term of the residual.",
        nothing_around: "The gradients of both residual connections are missing: each sum passes "
        "its gradient to both of its terms.",
        attention_from_dy: "Attention gets dy, but its output is a term of the residual: it "
        "must get the residual's whole gradient.",
        attention_from_mlp_path: "Attention gets only what came through the MLP: it must get "
        "the residual's whole gradient.",
        only_dy_around: "Only dy flows around attention: x is a term of the residual, so it "
        "gets the residual's whole gradient.",
        around_both_at_once: "dy flows around both layers at once, but there are two sums: a "
        "gradient also flows around one layer and through the other.",
        dy_twice: "dy is added once too often: the residual's gradient already contains it.",
        forward_order: "Each LayerNorm comes before its layer in the forward pass, so in the "
        "backward pass it comes after that layer.",
        attention_first: "The two halves are in the order of the forward pass: in the backward "
        "pass, the MLP comes first.",
    },
    (
        "A sum passes its gradient to each of its terms unchanged. A value that is used twice sums "
        "the gradients of its two uses.",
        "The residual's gradient is dy, around the MLP, plus dy sent through the MLP and then the "
        "second LayerNorm.",
        "dx follows in the same way from the first half of the block: the residual's gradient, "
        "around attention, plus the residual's gradient sent through attention and then the first "
        "LayerNorm.",
    ),
)
