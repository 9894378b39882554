"""Put the trained weights, in half precision, where a clone finds them: data/pretrained.pkl."""

import json
import platform

import numpy as np

from baregpt.model import GPT
from baregpt.weights import read_weights, save_weights
from pipeline.common.inputs import checksum
from pipeline.common.stage import PRETRAINED, WEIGHTS, run
from pipeline.tracking import client as tracking


def main():
    model, vocab, metadata = read_weights(WEIGHTS)
    half = GPT(model.config, dtype=np.float16)
    half.flat[:] = model.flat
    made_by = tracking.find_run(checksum(WEIGHTS))
    if made_by is None or made_by.info.end_time is None or not made_by.data.params:
        missing = f"MLflow has no finished training run of {WEIGHTS}"
        raise ValueError(f"{missing}: train here before you export")
    metadata["recipe"] = json.dumps(made_by.data.params, sort_keys=True)
    metadata["seconds"] = (made_by.info.end_time - made_by.info.start_time) / 1000
    metadata |= {"python": platform.python_version(), "numpy": np.__version__}
    save_weights(PRETRAINED, half, vocab, metadata)
    print(f"{PRETRAINED}: {PRETRAINED.stat().st_size:,} bytes")
    for name, value in metadata.items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    run(main)
