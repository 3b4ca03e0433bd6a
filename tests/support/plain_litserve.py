"""LitAPIs by LitServe alone, each at /CLASS: ``python plain_litserve.py PORT BATCH MODULE:CLASS ...``."""

import sys
from importlib import import_module

import litserve

if __name__ == "__main__":
    port, batch, *specs = sys.argv[1:]
    apis = []
    for spec in specs:
        module, _, name = spec.partition(":")
        api = getattr(import_module(module), name)()
        api.max_batch_size, api.batch_timeout, api.api_path = int(batch), 0.02 * (batch != "1"), f"/{name}"
        apis.append(api)
    server = litserve.LitServer(apis, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, generate_client_file=False)
