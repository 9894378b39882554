"""sample: have the trained model write."""

from baregpt.files import atomic_write
from baregpt.sampler import generate
from baregpt.weights import read_weights
from pipeline.common.inputs import checksum
from pipeline.common.params import load_params
from pipeline.common.stage import SAMPLES, WEIGHTS, encode_prompt, prompt_or_excerpt, run
from pipeline.tracking import outbox


def main():
    params = load_params().sample
    md5 = checksum(WEIGHTS)
    model, vocab, metadata = read_weights(WEIGHTS)
    prompt = prompt_or_excerpt(params.prompt, vocab, metadata)
    encode_prompt(vocab, prompt, "sample.prompt")
    drawn = params.length, params.temperature, params.top_k
    samples = []
    for i in range(params.count):
        seed = params.seed + i
        how = f"temperature {params.temperature}, top-k {params.top_k}, seed {seed}"
        text = "".join(generate(model, vocab, prompt, *drawn, seed))
        samples.append(f"--- sample {i + 1} of {params.count}: {how} ---\n{prompt}{text}\n")
    with atomic_write(SAMPLES) as file:
        file.write("\n".join(samples).encode())
    print(samples[0])
    outbox.add_to_run_of(WEIGHTS, md5, SAMPLES)


if __name__ == "__main__":
    run(main, "sample")
