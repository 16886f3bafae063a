"""OpenVINO's telemetry, off. To be called before anything of OpenVINO is imported.

`import openvino` loads its library, hands it an event (openvino.tools.ovc does, as it is imported) and writes an id
below the home directory; NNCF hands it more. An appliance opens no connection to the outside.
"""

import os
import sys


def silence_telemetry() -> None:
    """Make importing openvino_telemetry raise ImportError: OpenVINO and NNCF take that for "not installed"."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # the documented way to forbid an import
    os.environ["NNCF_CI"] = "1"  # NNCF's own switch, should it find another way
