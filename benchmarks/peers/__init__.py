"""The same classifier behind other frameworks' servers, each as its documentation recommends."""

PEERS = ("mosec", "fastapi", "bentoml", "ray")
"""Each is served by the module ``benchmarks.peers.NAME_server``, and is the name of its package."""
