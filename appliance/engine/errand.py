"""What every helper process of an import does first and last. Knows processes; knows no model.

First it lowers itself, closes the way to the internet and takes limits; last it prints one line of JSON.
"""

import json
import os
import resource
import socket
import sys
from collections.abc import Callable

from appliance.engine.orphan import end_with_parent
from appliance.engine.telemetry import silence_telemetry

NICENESS = 10  # a model that is being served comes first
MOST_REASON = 700  # characters of an error

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_SENDS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_LOOKS_UP = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})


def run_errand(errand: Callable[[], dict[str, object]]) -> int:
    """Do it, confined, and print what it returns, or the reason why not; returns the exit status, 0 or 1."""
    # Whoever started this may be killed: nobody would read the result, and the directory is about to be removed.
    end_with_parent()
    os.nice(NICENESS)
    stay_offline()
    try:
        report = errand()
    except MemoryError:
        report = {"error": "it took more memory than an honest file of this size needs"}
    except Exception as error:  # GenAI lets C++'s own exceptions through, such as IndexError: unordered_map::at
        name = "" if isinstance(error, RuntimeError | ValueError) else f"{type(error).__name__}: "
        report = {"error": name + " ".join(str(error).split())[:MOST_REASON]}
    print(json.dumps(report), flush=True)
    return 1 if "error" in report else 0


def limit(*, address_bytes: int | None = None, data_bytes: int | None = None, cpu_s: int | None = None) -> None:
    """Bounds for the rest of this process: of what is mapped, of what is written to, of processor time."""
    wanted = {resource.RLIMIT_AS: address_bytes, resource.RLIMIT_DATA: data_bytes, resource.RLIMIT_CPU: cpu_s}
    for kind, value in wanted.items():
        if value is not None:
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def stay_offline() -> None:
    """Refuse what Python code would send to the internet, OpenVINO's telemetry first of all."""
    silence_telemetry()
    sys.addaudithook(_refuse_internet)


def _refuse_internet(event: str, arguments: tuple[object, ...]) -> None:
    if event in _LOOKS_UP:
        raise PermissionError(f"an import looks nothing up: {event}")
    if event in _SENDS and isinstance(arguments[0], socket.socket) and arguments[0].family in _INTERNET:
        raise PermissionError(f"an import opens no connection: {event}")
