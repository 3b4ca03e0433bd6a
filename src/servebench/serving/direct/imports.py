"""What every worker needs, imported by the process that workers are forked from."""

from contextlib import suppress

from servebench.system.collector import for_good

# What cannot be imported ends the worker that needs it, with the reason in the log.
with suppress(Exception), for_good():
    import servebench.inference.predictor
    import servebench.serving.direct.worker  # noqa: F401
