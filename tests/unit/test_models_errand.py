"""What a helper process may not do: reach the internet, load telemetry, or outlive its limits in silence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFINED = "import socket, sys\nfrom appliance.engine.errand import run_errand\n"


def run(errand: str) -> dict[str, object]:
    script = CONFINED + f"def errand():\n    {errand}\n    return {{'done': 1}}\nsys.exit(run_errand(errand))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    report: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
    assert ended.returncode == (1 if "error" in report else 0)
    return report


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('192.0.2.1', 443), 1)",
        "socket.socket(socket.AF_INET6, socket.SOCK_STREAM).connect(('2001:db8::1', 443))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "socket.getaddrinfo('example.com', 443)",
        "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=1)",
    ],
)
def test_a_way_to_the_internet_is_refused(attempt: str) -> None:
    assert "an import " in str(run(attempt)["error"])


def test_sockets_of_this_machine_stay_open() -> None:
    assert run("one, other = socket.socketpair(); one.sendall(b'x'); other.recv(1)") == {"done": 1}


@pytest.mark.parametrize("module", ["appliance.models.compression", "appliance.engine.genai.importing"])
def test_neither_openvino_nor_nncf_tries_to_send_or_leaves_an_id(module: str, tmp_path: Path) -> None:
    """Seen by a hook of the test's own, in an environment that does not pass for a CI's; the hook comes first."""
    script = (
        "import sys, threading\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, arguments: event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto')"
        " and seen.append(event))\n"
        "from appliance.engine.errand import run_errand\n"
        f"def errand():\n    import {module}\n    return {{}}\n"
        "run_errand(errand)\n"
        "for thread in threading.enumerate():\n"
        "    thread is threading.current_thread() or thread.join(5)\n"
        "print(seen, sys.modules['openvino_telemetry'])"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=100)
    assert ended.stdout.splitlines()[-1:] == ["[] None"], ended.stderr
    assert list(tmp_path.iterdir()) == []
