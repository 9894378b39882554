"""sample: have the trained model write."""

from baregpt.files import atomic_write
from baregpt.sampler import generate
from baregpt.weights import load_weights
from pipeline import tracking
from pipeline.params import load_params
from pipeline.stage import SAMPLES, WEIGHTS, encode_prompt, run


def main():
    params = load_params().sample
    model, vocab = load_weights(WEIGHTS)
    encode_prompt(vocab, params.prompt, "sample.prompt")
    samples = []
    for i in range(params.count):
        seed = params.seed + i
        text = generate(model, vocab, params.prompt, params.length, params.temperature, params.top_k, seed)
        drawn = f"temperature {params.temperature}, top-k {params.top_k}, seed {seed}"
        samples.append(f"--- sample {i + 1} of {params.count}: {drawn} ---\n{params.prompt}{''.join(text)}\n")
    with atomic_write(SAMPLES) as file:
        file.write("\n".join(samples).encode())
    print(samples[0])
    tracking.log_to_run_of(WEIGHTS, SAMPLES)


if __name__ == "__main__":
    run(main)
