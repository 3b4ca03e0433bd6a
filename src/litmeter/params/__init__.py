"""params.yaml, one section per settings class: typed, frozen, an unknown key is an error."""

from litmeter.params.file import (
    CANDIDATE,
    PARAMS_FILE,
    Params,
    ParamsLoader,
    explain,
    load_params,
    section_of,
)
from litmeter.params.sections import (
    PACKAGE_MODEL,
    BaselineSettings,
    ComparisonSettings,
    CompileSettings,
    DataSettings,
    LoadSettings,
    ModelSettings,
    ObjectiveSettings,
    TrainSettings,
)
from litmeter.params.serve import ServeSettings
from litmeter.params.tune import TuneSettings
from litmeter.params.types import Count, Positive, Section, Timeout

__all__ = [
    "CANDIDATE",
    "PACKAGE_MODEL",
    "PARAMS_FILE",
    "BaselineSettings",
    "ComparisonSettings",
    "CompileSettings",
    "Count",
    "DataSettings",
    "LoadSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "Params",
    "ParamsLoader",
    "Positive",
    "Section",
    "ServeSettings",
    "Timeout",
    "TrainSettings",
    "TuneSettings",
    "explain",
    "load_params",
    "section_of",
]
