"""params.yaml, one section per settings class: typed, frozen, an unknown key is an error."""

from litmeter.params.file import CANDIDATE, PARAMS_FILE, Params, ParamsLoader, load_params, section_of
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

__all__ = [
    "CANDIDATE",
    "PACKAGE_MODEL",
    "PARAMS_FILE",
    "BaselineSettings",
    "ComparisonSettings",
    "CompileSettings",
    "DataSettings",
    "LoadSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "Params",
    "ParamsLoader",
    "ServeSettings",
    "TrainSettings",
    "TuneSettings",
    "load_params",
    "section_of",
]
