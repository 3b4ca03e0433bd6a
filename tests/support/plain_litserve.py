"""LitAPIs as LitServe alone serves them: ``python plain_litserve.py PORT BATCH NAME ...``, each at /NAME."""

import sys

import lit_apis
import litserve

if __name__ == "__main__":
    port, batch, *names = sys.argv[1:]
    apis = [getattr(lit_apis, name)() for name in names]
    for name, api in zip(names, apis, strict=True):
        api.max_batch_size, api.batch_timeout, api.api_path = int(batch), 0.02 * (batch != "1"), f"/{name}"
    server = litserve.LitServer(apis, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, generate_client_file=False)
