"""How fast can a classifier be served on this machine, with which LitServe configuration, and why.

Rooms, each of which imports only from those below it (``pyproject.toml`` has the contract, a test holds it)::

    cli
    stages                        a module per stage of dvc.yaml
    report    selftest            results in words and pictures; the instrument against what is known
    benchmark                     in-process, served, accuracy, telemetry, validity
    serving                       the server: LitAPI, launcher, direct transport
    training  ceilings  loadgen   fine-tuning; FLOPs and roofline; the load generator
    data                          photographs and their index
    inference                     image bytes -> probabilities, compiled models included
    stats     system              pure statistics; files, processes, the machine
    params    paths     errors
"""
