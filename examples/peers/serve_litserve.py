"""LitServe: a worker that takes whole batches."""

import litserve
from model import WAIT_S, Model, read_options


class PeerAPI(litserve.LitAPI):
    """LitServe calls predict with an item where nothing is batched, else with a list of items."""

    def setup(self, device):
        """Load the model."""
        self.model = Model()

    def decode_request(self, request):
        """The item of a body."""
        return request["inputs"]

    def batch(self, inputs):
        """A batch is the list of its items."""
        return inputs

    def predict(self, x):
        """The outputs of a batch, or of an item."""
        return self.model.predict(x) if self.max_batch_size > 1 else self.model.predict([x])[0]

    def encode_response(self, output):
        """The answer."""
        return {"outputs": output}


if __name__ == "__main__":
    options = read_options()
    api = PeerAPI(max_batch_size=options.batch, batch_timeout=WAIT_S if options.batch > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", timeout=30)
    server.run(
        host="127.0.0.1",
        port=options.port,
        num_api_servers=1,
        generate_client_file=False,
        access_log=False,
        log_level="warning",
    )
