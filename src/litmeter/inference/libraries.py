"""What a predictor imports, so that processes that are forked can have it imported before."""

from litmeter.params import ServeSettings


def modules_of(settings: ServeSettings) -> list[str]:
    """The modules that a predictor with these settings imports; their libraries take seconds."""
    return [
        "litmeter.inference.predictor",
        *([] if settings.compiled else ["litmeter.inference.model"]),
        *(["litmeter.inference.timm_preprocess"] if settings.preprocess == "timm" else []),
    ]
