"""Writing the explorer page."""

import base64
import json
from pathlib import Path

import numpy as np

from baregpt.files import atomic_write
from baregpt.model import parameter_shapes

HERE = Path(__file__).parent
SCRIPTS = {"/* model.js */": "model.js", "/* explore.js */": "explore.js"}
METADATA = "steps", "train_loss", "validation_loss"  # what is the same for every reproduction
FLOAT16_MAX = np.finfo(np.float16).max


def write_page(path, model, vocab, metadata, md5, text):
    """Write one self-contained HTML file: the weights in half precision, the code that runs them,
    and `text` to begin with.

    The same weights and text give the same bytes.
    """
    halves = np.clip(model.flat, -FLOAT16_MAX, FLOAT16_MAX).astype("<f2")
    data = {
        "config": vars(model.config),
        "shapes": list(parameter_shapes(model.config).items()),
        "characters": list(vocab.characters),
        "parameters": model.n_parameters,
        "metadata": {name: metadata[name] for name in METADATA if name in metadata},
        "md5": md5,
        "text": text,
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for placeholder, name in SCRIPTS.items():
        page = page.replace(placeholder, (HERE / name).read_text(encoding="utf-8"))
    weights = base64.b64encode(halves.tobytes()).decode()
    data["bytes"] = len(page.encode()) + len(weights)
    # inside a script element only "<" could end it: no text becomes markup
    page = page.replace("/* data */", json.dumps(data).replace("<", "\\u003c"), 1)
    with atomic_write(path) as file:
        file.write(page.replace("/* weights */", weights, 1).encode())
