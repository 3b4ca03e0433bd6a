"""The exported model compiled for this machine: one package per precision and batch size."""

import sys

# Else OpenVINO reports each import of itself to its maker, and writes into the home folder.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
