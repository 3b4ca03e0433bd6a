"""params.yaml, one section per settings class: typed, frozen, an unknown key is an error."""

from servebench.params.file import CANDIDATE, PARAMS_FILE, Params, ParamsLoader, load_params, section_of
from servebench.params.sections import (
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
from servebench.params.serve import ServeSettings
from servebench.params.tune import TuneSettings

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
