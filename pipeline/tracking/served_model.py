"""The model as MLflow loads and serves it: prompts in, text out.

MLflow keeps a copy of this file, of `baregpt` and of weights.pkl together, and loads them through
`_load_pyfunc`, so that the weights are never unpickled but by `baregpt.load_weights`.
"""

from mlflow.exceptions import MlflowException

from baregpt import generate, load_weights


class Writer:
    def __init__(self, weights):
        self.model, self.vocab = load_weights(weights)

    def predict(self, model_input, params):
        """A DataFrame with a column `prompt` -> the text that goes on from each, a list of str.

        params: length, temperature, top_k and seed, as for `baregpt.generate`; seed -1 gives
        another text each time. What `generate` refuses is an MlflowException, of which a server
        tells its client the message, and no more.
        """
        prompts = model_input["prompt"]
        settings = params["length"], params["temperature"], params["top_k"]
        seed = None if params["seed"] == -1 else params["seed"]
        try:
            streams = [generate(self.model, self.vocab, one, *settings, seed) for one in prompts]
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return ["".join(stream) for stream in streams]


def _load_pyfunc(path):
    return Writer(path)
