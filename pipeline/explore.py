"""Write the explorer page for the trained weights, or else the included ones, and open it."""

import webbrowser

from baregpt.weights import read_weights
from pipeline.common.inputs import checksum
from pipeline.common.paths import (
    DOCS_EXPLORER_PAGE,
    PRETRAINED,
    PRETRAINED_SNAPSHOTS,
    SNAPSHOTS,
    WEIGHTS,
)
from pipeline.common.stage import run, warn
from pipeline.explorer.page import read_snapshots, write_page

TEXT = "KING:\nWhat news, my lord?\n\nMESSENGER:\nThe king is "


def main():
    path = WEIGHTS if WEIGHTS.exists() else PRETRAINED
    model, vocab, metadata = read_weights(path)
    known = "".join(c for c in TEXT if c in vocab.characters) or vocab.characters[:1]
    page = DOCS_EXPLORER_PAGE
    text = metadata.get("excerpt") or known
    snapshots_path = SNAPSHOTS if path == WEIGHTS else PRETRAINED_SNAPSHOTS
    snapshots = read_snapshots(snapshots_path, model.config)
    if problem := write_page(page, model, vocab, metadata, checksum(path), text, snapshots):
        warn(problem)
    print(f"wrote {page} for {path} ({page.stat().st_size / 1e6:.1f} MB)")
    webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    run(main)
