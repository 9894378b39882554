"""Check params.yaml and the corpus path before DVC starts.

DVC does not report unused parameters, nor does it name corpus.path if the corpus is missing.
"""

from pathlib import Path

from pipeline.common.params import load_params
from pipeline.common.stage import run


def main():
    path = load_params().corpus.path
    if not Path(path).is_file():
        raise ValueError(
            f"corpus {path} does not exist; put a text file there or change corpus.path"
        )


if __name__ == "__main__":
    run(main)
