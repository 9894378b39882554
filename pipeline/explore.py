"""Write the explorer page for the trained weights, or else the pretrained ones, and open it."""

import webbrowser

from pipeline.common.paths import (
    DOCS_EXPLORER_PAGE,
    PRETRAINED,
    PRETRAINED_SNAPSHOTS,
    SNAPSHOTS,
    WEIGHTS,
)
from pipeline.common.stage import run
from pipeline.explorer.page import write_page


def main():
    trained, pretrained = (WEIGHTS, SNAPSHOTS), (PRETRAINED, PRETRAINED_SNAPSHOTS)
    weights, snapshots = trained if WEIGHTS.exists() else pretrained
    page = DOCS_EXPLORER_PAGE
    write_page(page, weights, snapshots)
    print(f"wrote {page} for {weights} ({page.stat().st_size / 1e6:.1f} MB)")
    webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    run(main, description=__doc__)
