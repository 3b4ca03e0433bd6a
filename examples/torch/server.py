"""A torch module behind LitServe's LitAPI: one item or a batch, whatever LitServe passes to predict."""

import litserve
import torch
from torch import nn


def make_model():
    """A small convolutional network for images (1, 28, 28), or batches of these, with weights from a seed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(-3),  # counted from the end, it leaves the batch alone where there is one
        nn.Linear(64 * 4 * 4, 10),
    ).eval()


class ImageAPI(litserve.LitAPI):
    """Ten probabilities for an image of 28 x 28 numbers."""

    def setup(self, device):
        """Load the model; called in each worker."""
        self.model = make_model().to(device)

    def decode_request(self, request):
        """The image of a body: {"inputs": 28 lists of 28 numbers}."""
        return torch.tensor(request["inputs"], dtype=torch.float32)[None]

    def batch(self, inputs):
        """Called where max_batch_size is above 1, even for a single item."""
        return torch.stack(inputs)

    def predict(self, x):
        """The probabilities, of an item (10) or a batch (N, 10)."""
        with torch.inference_mode():
            return self.model(x.to(self.device)).softmax(-1).cpu()

    def unbatch(self, output):
        """The items of a batch."""
        return list(output)

    def encode_response(self, output):
        """The answer."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    litserve.LitServer(ImageAPI(max_batch_size=8, batch_timeout=0.002)).run(port=8000)
