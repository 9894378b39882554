"""sample: generate text from the trained model."""

from baregpt.files import atomic_write
from baregpt.sampler import generate
from baregpt.weights import read_weights
from pipeline.common.inputs import checksum
from pipeline.common.params import load_params
from pipeline.common.paths import SAMPLES, WEIGHTS
from pipeline.common.stage import default_prompt, encode_prompt, run
from pipeline.tracking.outbox import attach_artifacts


def main():
    params = load_params().sample
    md5 = checksum(WEIGHTS)
    model, vocab, metadata = read_weights(WEIGHTS)
    prompt = params.prompt or default_prompt(vocab, metadata)
    encode_prompt(vocab, prompt, "sample.prompt")
    sampling = params.length, params.temperature, params.top_k
    samples = []
    for i in range(params.count):
        seed = params.seed + i
        text = "".join(generate(model, vocab, prompt, *sampling, seed))
        samples.append(
            f"--- sample {i + 1} of {params.count}: temperature {params.temperature},"
            f" top-k {params.top_k}, seed {seed} ---\n{prompt}{text}\n"
        )
    with atomic_write(SAMPLES) as file:
        file.write("\n".join(samples).encode())
    print(samples[0])
    attach_artifacts(md5, "sample", params, SAMPLES)


if __name__ == "__main__":
    run(main, "sample", __doc__)
