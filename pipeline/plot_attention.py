"""plot_attention: draw what each head of a layer attends to."""

import math

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from baregpt.files import atomic_write
from baregpt.weights import load_weights
from pipeline import tracking
from pipeline.params import load_params
from pipeline.stage import ATTENTION_PICTURE, WEIGHTS, encode_prompt, run

VISIBLE = str.maketrans({"\n": "↵", " ": "␣", "\t": "⇥"})


def draw_attention(path, text, weights, title):
    """Heat maps, one panel a head, of weights (H, T, T): row i shows what character i attends to."""
    n_heads = len(weights)
    columns = math.ceil(math.sqrt(n_heads))
    rows = math.ceil(n_heads / columns)
    side = max(3.0, 0.16 * len(text))
    figure = Figure(figsize=(columns * side + 1, rows * (side + 0.4)), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    labels = list(text.translate(VISIBLE))
    future = ~np.tri(len(text), dtype=bool)
    for head, panel in enumerate(panels):
        if head >= n_heads:
            panel.set_visible(False)
            continue
        image = panel.imshow(np.ma.array(weights[head], mask=future), cmap="viridis", norm=PowerNorm(0.5, 0, 1))
        panel.set_title(f"head {head + 1}", fontsize=12)
        panel.set_xticks(range(len(text)), labels, fontfamily="monospace", fontsize=9)
        panel.set_yticks(range(len(text)), labels, fontfamily="monospace", fontsize=9)
        panel.tick_params(length=0, pad=2, labelbottom=True, labelleft=True)
        panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=list(panels), label="attention weight", shrink=0.6)
    figure.suptitle(title)
    figure.supxlabel("attended character")
    figure.supylabel("attending character")
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def main():
    params = load_params().plot_attention
    model, vocab = load_weights(WEIGHTS)
    n_layers = model.config.n_layers
    ids = encode_prompt(vocab, params.prompt, "plot_attention.prompt")
    weights = model.attention(ids[None])[params.layer][0]  # (H, T, T)
    draw_attention(
        ATTENTION_PICTURE, params.prompt, weights, f"Attention in layer {params.layer % n_layers + 1} of {n_layers}"
    )
    tracking.log_to_run_of(WEIGHTS, ATTENTION_PICTURE)


if __name__ == "__main__":
    run(main)
