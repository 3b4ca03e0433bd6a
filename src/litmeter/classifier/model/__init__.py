"""Image bytes to class probabilities; run by the server's workers and by the in-process baseline."""

import sys

# Without its telemetry module, OpenVINO neither reports its imports nor writes into the home folder.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
