"""What systemd makes of the units and their drop-ins, with the fake engine in the daemon."""

import json
import re
from pathlib import Path

import pytest

from appliance.models.fake import install_fake
from appliance.models.store import Store
from tests.deploy.conftest import NewHost
from tests.support.hosts import Host
from tests.support.hosts.machine import wait_until
from tests.support.units import UNITS, drop_in, install_units

APPLIANCE = "/opt/appliance/current/bin/appliance"
SETTINGS = "/etc/appliance/appliance.toml"
FAKE = '[engine]\npipeline = "fake"\n'
BAD = "[engine]\npipeline = 3\n"
WAIT_S = 60.0


@pytest.fixture
def host(new_appliance: NewHost) -> Host:
    """An installed appliance, not started, whatever the boot did."""
    made = new_appliance()
    install_units(made)
    made.run("systemctl stop appliance.socket appliance.service; systemctl reset-failed 'appliance*'", check=False)
    made.put(FAKE, SETTINGS)
    return made


def shown(host: Host, name: str, unit: str = "appliance.service") -> str:
    return host.ask(f"systemctl show --value -p {name} {unit}")


def journal(host: Host, unit: str = "appliance.service") -> str:
    return host.ask(f"journalctl --no-pager -o cat -u {unit}")


def wait_for(host: Host, name: str, wanted: str, unit: str = "appliance.service") -> None:
    def explanation() -> str:
        return f"{name} of {unit} is {shown(host, name, unit)}, not {wanted}: {journal(host)}"

    wait_until(lambda: shown(host, name, unit) == wanted, WAIT_S, explanation)


def worker_of(host: Host) -> str:
    return host.ask(f"pgrep -P {shown(host, 'MainPID')} -f appliance.engine.worker")


def test_a_daemon_that_hangs_says_where_and_leaves_no_core(host: Host) -> None:
    drop_in(host, "appliance.service", "[Service]\nWatchdogSec=3s\n")
    host.run("systemctl start appliance.service")
    host.run(f"kill -STOP {shown(host, 'MainPID')}")
    wait_for(host, "NRestarts", "1")
    wait_for(host, "SubState", "running")
    said = journal(host)
    assert "Watchdog timeout" in said
    assert re.search(r"Fatal Python error: Aborted[\s\S]*File \"/opt/appliance/releases/.*\", line", said)
    assert "dumped core" not in said


def test_no_settings_file_is_told_and_a_stop_leaves_no_process(host: Host) -> None:
    host.run(["rm", SETTINGS])
    host.run("systemctl start appliance.service", check=False)
    assert (shown(host, "ActiveState"), shown(host, "ExecMainStatus"), shown(host, "NRestarts")) == (
        "failed",
        "78",
        "0",
    )
    assert SETTINGS in journal(host)
    host.put(FAKE, SETTINGS)
    host.run("systemctl start appliance.service")
    worker = worker_of(host)
    host.run("systemctl stop appliance.service")
    assert (shown(host, "Result"), shown(host, "ExecMainStatus")) == ("success", "0")
    assert host.run(f"ps -p {worker}", check=False).returncode == 1
    assert "SIGKILL" not in journal(host)


def test_with_bad_settings_clients_are_told_and_the_socket_does_not_give_up(host: Host) -> None:
    """Starts are few, however often somebody asks; and once the settings are mended the next who asks is served."""
    host.put(BAD, SETTINGS)
    before = journal(host).count("Starting appliance.service")
    host.run("systemctl start appliance.socket")
    ask = "curl -s --max-time 30 -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:8080/healthz"
    answers = host.ask(f"for i in $(seq 30); do {ask}; sleep 0.3; done").split()
    assert answers == ["503"] * 30
    assert journal(host).count("Starting appliance.service") - before <= 8
    assert shown(host, "ActiveState", "appliance.socket") == "active"
    host.put(FAKE, SETTINGS)
    assert host.ask("curl -sf --max-time 30 http://127.0.0.1:8080/healthz")


def test_a_socket_that_gave_up_comes_back_with_the_service(host: Host) -> None:
    """As where the program itself can't run: nobody is there to tell the clients."""
    drop_in(host, "appliance.socket", "[Socket]\nTriggerLimitBurst=3\n")
    drop_in(host, "appliance.service", "[Service]\nRestart=no\nExecStart=\nExecStart=/usr/bin/false\n")
    host.run("systemctl enable appliance.socket appliance.service")
    host.run("systemctl start appliance.socket")
    host.run("curl -s --max-time 30 http://127.0.0.1:8080/healthz", check=False)
    wait_for(host, "Result", "trigger-limit-hit", "appliance.socket")
    host.put(FAKE, SETTINGS)
    drop_in(host, "appliance.service", "")
    host.run("systemctl start appliance.service")
    assert shown(host, "ActiveState", "appliance.socket") == "active"
    assert host.ask("curl -sf http://127.0.0.1:8080/healthz")


def test_the_limits_that_drop_ins_set_are_taken_as_meant(host: Host) -> None:
    """The settings; a host of these tests has no controllers to see the effect of most."""
    for name in ("memory.conf", "cpu.conf", "io.conf"):
        text = (UNITS / "optional/appliance.service.d" / name).read_text("utf-8")
        drop_in(host, "appliance.service", text, name=f"50-{name}")
    host.run("systemctl start appliance.service")
    names = ["MemoryHigh", "MemoryMax", "MemorySwapMax", "CPUAffinity", "CPUWeight", "IOWeight"]
    assert {name: shown(host, name) for name in names} == {
        "MemoryHigh": str(1725 << 20),
        "MemoryMax": str(1941 << 20),
        "MemorySwapMax": "0",
        "CPUAffinity": "0-2",
        "CPUWeight": "400",
        "IOWeight": "400",
    }
    assert "failed to" not in journal(host).lower()


@pytest.mark.timeout(300, func_only=True)  # a boot, and two checks that give way to all else on the machine
def test_a_model_damaged_while_the_host_was_off_gives_way_to_the_previous_good_one(host: Host, tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    for name in ("old", "new"):
        install_fake(store, name)
    put_tree(host, tmp_path / "models", "/var/lib/appliance/models")
    host.put(FAKE + '[models]\npreferred = ["new", "old"]\n', SETTINGS)
    for name in ("old", "new"):
        host.run(f"runuser -u appliance -- {APPLIANCE} models use {name} --config {SETTINGS}")
    host.run("systemctl enable appliance.service")
    host.run("systemctl start appliance-model-check.service appliance.service", timeout_s=100)
    assert "ready · new" in shown(host, "StatusText")
    host.off()
    with host.disk() as root:
        (weights,) = root.glob("var/lib/appliance/models/new/*/openvino_model.bin")
        weights.write_bytes(bytes(byte ^ 1 for byte in weights.read_bytes()))
    host.start()
    wait_for(host, "ActiveState", "active")
    assert "ready · old" in shown(host, "StatusText")
    assert re.search(r"model new: .*openvino_model\.bin is damaged: sha256", journal(host))
    assert '"bad"' in host.ask("cat /var/lib/appliance/models/slots.json")
    assert host.run("systemctl start appliance-model-check.service", 100, check=False).returncode != 0
    assert "openvino_model.bin is damaged" in host.ask("journalctl -u appliance-model-check.service -p err -o cat")


def put_tree(host: Host, source: Path, target: str) -> None:
    for file in sorted(source.rglob("*")):
        if file.is_file():
            host.put(file, f"{target}/{file.relative_to(source)}")
    host.run(["chown", "-R", "appliance:", target])


def test_the_nightly_benchmark_keeps_its_figures_in_its_sandbox(host: Host) -> None:
    host.run("systemctl start appliance.socket appliance.service")
    host.run("systemctl start appliance-bench.service", timeout_s=110)
    (kept,) = host.ask("ls /var/lib/appliance/benchmarks").split()
    assert json.loads(host.ask(f"cat /var/lib/appliance/benchmarks/{kept}"))["schema"] == "appliance-self-benchmark"
    host.run("systemctl enable --now appliance-bench.timer appliance-model-check.timer")
    listed = host.ask("systemctl list-timers --no-pager --no-legend")
    assert {"appliance-bench.timer", "appliance-model-check.timer"} <= set(listed.split())
    host.run("systemctl stop appliance.socket appliance.service")
    assert host.run("systemctl start appliance-bench.service", check=False).returncode != 0
    assert shown(host, "ActiveState") == "inactive"
