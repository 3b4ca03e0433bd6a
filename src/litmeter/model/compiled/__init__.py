"""The exported model compiled for this machine: one package per precision and batch size."""

import sys

# Without its telemetry module, OpenVINO neither reports its imports nor writes into the home folder.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
