"""explore: the page in which the trained model itself runs, in the reader's browser.

`python -m pipeline.explore` makes it for the trained weights, or else for the included ones.
"""

import base64
import json
import webbrowser
from pathlib import Path

import numpy as np

from baregpt.files import atomic_write
from baregpt.model import parameter_shapes
from baregpt.weights import read_weights
from pipeline.common.inputs import checksum
from pipeline.common.stage import PRETRAINED, WEIGHTS, run

HERE = Path(__file__).with_name("explorer")
PARTS = {"/* model.js */": "model.js", "/* explore.js */": "explore.js"}
SHOWN = "steps", "train_loss", "validation_loss"  # of the metadata: what they say is repeatable
LARGEST = np.finfo(np.float16).max
START = "KING:\nWhat news, my lord?\n\nMESSENGER:\nThe king is "
PAGE = Path("docs/explore.html")  # the one in data/ is the stage's, which DVC looks after


def write_page(path, model, vocab, metadata, md5, text):
    """One file with all that is needed: the weights in half precision, and what runs them.

    The same weights and text give the same bytes: no clock and no path goes in.
    """
    halves = np.clip(model.flat, -LARGEST, LARGEST).astype("<f2")
    about = {
        "config": vars(model.config),
        "shapes": list(parameter_shapes(model.config).items()),
        "characters": list(vocab.characters),
        "parameters": model.n_parameters,
        "metadata": {name: metadata[name] for name in SHOWN if name in metadata},
        "md5": md5,
        "text": text,
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for mark, name in PARTS.items():
        page = page.replace(mark, (HERE / name).read_text(encoding="utf-8"))
    weights = base64.b64encode(halves.tobytes()).decode()
    about["bytes"] = len(page.encode()) + len(weights)
    # inside a script element only "<" could end it: no text becomes markup
    page = page.replace("/* about */", json.dumps(about).replace("<", "\\u003c"), 1)
    with atomic_write(path) as file:
        file.write(page.replace("/* weights */", weights, 1).encode())


def main():
    source = WEIGHTS if WEIGHTS.exists() else PRETRAINED
    model, vocab, metadata = read_weights(source)
    known = "".join(c for c in START if c in vocab.characters) or vocab.characters[:1]
    write_page(PAGE, model, vocab, metadata, checksum(source), metadata.get("excerpt") or known)
    print(f"{PAGE}: {source} in a page of {PAGE.stat().st_size / 1e6:.1f} MB")
    webbrowser.open(PAGE.resolve().as_uri())


if __name__ == "__main__":
    run(main)
