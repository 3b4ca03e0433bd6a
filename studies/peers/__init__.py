"""The same predictor behind other frameworks' servers, each as its documentation recommends."""

PEERS = ("mosec", "fastapi", "bentoml", "ray")
"""Each is served by the module ``studies.peers.NAME_server``, and is the name of its package."""
