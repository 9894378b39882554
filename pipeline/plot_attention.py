"""plot_attention: show what the heads attend to, as a picture of one layer and as a page in which
the model runs.
"""

import math
import warnings

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from baregpt.files import atomic_write
from baregpt.weights import read_weights
from pipeline.common.inputs import checksum
from pipeline.common.params import load_params
from pipeline.common.stage import (
    ATTENTION_PICTURE,
    EXPLORE_PAGE,
    WEIGHTS,
    encode_prompt,
    prompt_or_excerpt,
    run,
)
from pipeline.explore import write_page
from pipeline.tracking import outbox

VISIBLE = str.maketrans({"\n": "↵", " ": "␣", "\t": "⇥"})


def draw_attention(path, text, weights, title):
    """Heat maps, one panel a head, of weights (H, T, T): row i is what character i attends to."""
    n_heads = len(weights)
    columns = math.ceil(math.sqrt(n_heads))
    rows = math.ceil(n_heads / columns)
    full_size = max(3.0, 0.16 * len(text))
    side = min(full_size, 60 / columns)  # a picture of 6,000 pixels at most
    small = 9 * side / full_size
    figure = Figure(
        figsize=(columns * side + 1, rows * (side + 0.4)), dpi=100, layout="constrained"
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    labels = list(text.translate(VISIBLE))
    future = ~np.tri(len(text), dtype=bool)
    for head, panel in enumerate(panels):
        if head >= n_heads:
            panel.set_visible(False)
            continue
        image = panel.imshow(
            np.ma.array(weights[head], mask=future), cmap="viridis", norm=PowerNorm(0.5, 0, 1)
        )
        panel.set_title(f"head {head + 1}", fontsize=12)
        panel.set_xticks(range(len(text)), labels, fontfamily="monospace", fontsize=small)
        panel.set_yticks(range(len(text)), labels, fontfamily="monospace", fontsize=small)
        panel.tick_params(length=0, pad=2, labelbottom=True, labelleft=True)
        panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=list(panels), label="attention weight", shrink=0.6)
    figure.suptitle(title)
    figure.supxlabel("attended character")
    figure.supylabel("attending character")
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # emoji, say: the picture shows a box
        figure.savefig(file, format="png")


def main():
    params = load_params().plot_attention
    md5 = checksum(WEIGHTS)
    model, vocab, metadata = read_weights(WEIGHTS)
    prompt = prompt_or_excerpt(params.prompt, vocab, metadata)
    n_layers, block_size = model.config.n_layers, model.config.block_size
    if not -n_layers <= params.layer < n_layers or len(prompt) > block_size:
        shape = f"{n_layers} layers for up to {block_size} characters, too few for plot_attention"
        raise ValueError(f"{WEIGHTS} has {shape} in params.yaml: `dvc repro` trains anew")
    ids = encode_prompt(vocab, prompt, "plot_attention.prompt")
    weights = [of_layer[0] for of_layer in model.attention(ids[None])]  # (H, T, T) each
    layer = params.layer % n_layers
    title = f"Attention in layer {layer + 1} of {n_layers}"
    draw_attention(ATTENTION_PICTURE, prompt, weights[layer], title)
    write_page(EXPLORE_PAGE, model, vocab, metadata, md5, prompt)
    outbox.add_to_run_of(WEIGHTS, md5, ATTENTION_PICTURE, EXPLORE_PAGE)


if __name__ == "__main__":
    run(main, "plot_attention")
