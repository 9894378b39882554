"""Replace the pretrained weights and snapshots with the trained ones, in half precision."""

import json
import platform

import numpy as np

from baregpt.files import atomic_write
from baregpt.model import GPT
from baregpt.weights import read_weights, save_weights
from pipeline.common.inputs import checksum
from pipeline.common.paths import PRETRAINED, PRETRAINED_SNAPSHOTS, SNAPSHOTS, WEIGHTS
from pipeline.common.stage import run
from pipeline.tracking import outbox, store


def main():
    model, vocab, metadata = read_weights(WEIGHTS)
    snapshots = SNAPSHOTS.read_bytes()  # before anything is written
    half = GPT(model.config, dtype=np.float16)
    half.flat[:] = model.flat
    with outbox.limited():
        connection = store.connect()
        training = store.find_by_tag("weights.md5", checksum(WEIGHTS), *connection)
    if training is None or training.info.end_time is None or not training.data.params:
        raise ValueError(
            f"MLflow has no finished training run of {WEIGHTS}; run `dvc repro --force train` first"
        )
    metadata["recipe"] = json.dumps(training.data.params, sort_keys=True)
    metadata["seconds"] = (training.info.end_time - training.info.start_time) / 1000
    metadata |= {"python": platform.python_version(), "numpy": np.__version__}
    save_weights(PRETRAINED, half, vocab, metadata)
    with atomic_write(PRETRAINED_SNAPSHOTS) as file:
        file.write(snapshots)
    print(f"{PRETRAINED}: {PRETRAINED.stat().st_size:,} bytes")
    for name, value in metadata.items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    run(main, description=__doc__)
