"""The model as MLflow loads and serves it: prompts in, text out.

MLflow stores a copy of this file and of `baregpt` with the weights, and calls `_load_pyfunc`. The
weights are only ever unpickled by `baregpt.load_weights`.
"""

from mlflow.exceptions import MlflowException

from baregpt import generate, load_weights


class TextGenerator:
    def __init__(self, weights):
        self.model, self.vocab = load_weights(weights)

    def predict(self, model_input, params):
        """Return the continuation of each prompt in the column `prompt` of a DataFrame.

        params: length, temperature, top_k and seed, as for `baregpt.generate`; seed -1 is random.
        Invalid values raise MlflowException, whose message a server sends to the client.
        """
        prompts = model_input["prompt"]
        sampling = params["length"], params["temperature"], params["top_k"]
        seed = None if params["seed"] == -1 else params["seed"]
        try:
            if params["length"] < 0:
                raise ValueError(f"length must be at least 0, got {params['length']}")
            if params["seed"] < -1:
                raise ValueError(f"seed must be -1 (random) or at least 0, got {params['seed']}")
            streams = [generate(self.model, self.vocab, one, *sampling, seed) for one in prompts]
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return ["".join(stream) for stream in streams]


def _load_pyfunc(path):
    return TextGenerator(path)
