"""The unit files say why each of their lines is there, and agree with the daemon that they run."""

import configparser
import re
from pathlib import Path

import pytest

from appliance.config.paths import SYSTEM_CONFIG, SYSTEM_RUNTIME, SYSTEM_STATE
from appliance.config.settings import Settings
from appliance.config.shipped import shipped
from appliance.engine.process import END_TIMEOUT_S
from appliance.installing.skeleton import SKELETON
from tests.unit.test_docs import ROOT

UNITS = Path(str(shipped("systemd")))
FILES = sorted(file for file in UNITS.rglob("*") if file.is_file())
WITH_DIRECTIVES = [file for file in FILES if file.suffix in {".service", ".socket", ".slice", ".timer", ".conf"}]
WITH_DIRECTIVES = [file for file in WITH_DIRECTIVES if file.parent.name not in {"sysusers.d", "tmpfiles.d"}]
NEXT = "\n#   "
DIRECTIVE = re.compile(r"[A-Z][A-Za-z0-9]*=")


def name_of(file: Path) -> str:
    return str(file.relative_to(UNITS))


def directives(name: str) -> dict[str, list[str]]:
    """The values of each directive of a unit file, in their order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text("utf-8").splitlines():
        if DIRECTIVE.match(line):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|min|h)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "min": 60, "h": 3600}[unit]


@pytest.mark.parametrize("file", WITH_DIRECTIVES, ids=name_of)
def test_each_directive_has_a_comment_of_its_own(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()
    uncommented = [
        line for above, line in zip(["", *lines], lines, strict=False) if line[:1].isalpha() and above[:1] != "#"
    ]
    assert uncommented == []


@pytest.mark.parametrize("file", WITH_DIRECTIVES, ids=name_of)
def test_a_file_has_lines_of_three_kinds_only(file: Path) -> None:
    """No continuation lines, no trailing blanks, nothing that systemd would read otherwise than it looks."""
    lines = file.read_text("utf-8").splitlines()
    strange = [
        line
        for line in lines
        if not (line in {"", "#"} or line.startswith("# ") or re.fullmatch(r"\[[A-Z][a-z]+\]", line))
        and not (DIRECTIVE.match(line) and not line.endswith(("\\", " ")))
    ]
    assert strange == []
    assert max(map(len, lines)) <= 120
    configparser.RawConfigParser(strict=False, interpolation=None, delimiters=("=",)).read_string("\n".join(lines))


def test_the_service_waits_longer_than_the_daemon_takes() -> None:
    unit = directives("appliance.service")
    settings = Settings()
    assert seconds(unit["TimeoutStopSec"][0]) > settings.server.drain_timeout_s + 2 * END_TIMEOUT_S
    assert seconds(unit["TimeoutStartSec"][0]) > settings.engine.load_timeout_s


def test_the_service_uses_the_places_that_the_daemon_looks_in() -> None:
    unit = directives("appliance.service")
    assert Path("/var/lib", *unit["StateDirectory"]) == SYSTEM_STATE
    assert Path("/run", *unit["RuntimeDirectory"]) == SYSTEM_RUNTIME
    assert Path("/etc", *unit["ConfigurationDirectory"]) == SYSTEM_CONFIG.parent
    assert unit["RuntimeDirectoryMode"] == ["0700"]


def test_all_commands_are_the_installed_release_with_the_one_settings_file() -> None:
    for file in UNITS.glob("*.service"):
        commands = directives(file.name)
        for command in commands["ExecStart"] + commands.get("ExecReload", []):
            assert command.lstrip("+").startswith("/opt/appliance/current/bin/appliance ")
            assert f"--config {SYSTEM_CONFIG}" in command


def test_the_account_is_the_one_that_is_made() -> None:
    made = [
        line.split()[1] for line in (UNITS / "sysusers.d/appliance.conf").read_text().splitlines() if line[0] == "u"
    ]
    used = [directives(name)[key] for name in ("appliance.service", "appliance-.service.d/10-sandbox.conf")
            for key in ("User", "Group")]  # fmt: skip
    assert used == [made] * 4


def test_the_listening_socket_is_the_daemons_own_by_default() -> None:
    server = Settings().server
    assert directives("appliance.socket")["ListenStream"] == [f"{server.host}:{server.port}"]


def test_the_backlog_holds_every_client() -> None:
    assert int(directives("appliance.socket")["Backlog"][0]) > Settings().server.max_connections


def test_what_runs_beside_the_daemon_has_its_sandbox() -> None:
    """Line by line, but for what is each unit's own: its network, and what its program needs."""
    own = {"IPAddressAllow", "RestrictAddressFamilies", "SystemCallFilter", "Slice", "UMask"}
    kinds = (
        "Protect",
        "Private",
        "Restrict",
        "Capability",
        "Ambient",
        "NoNew",
        "Lock",
        "Keyring",
        "SystemCall",
        "Device",
    )
    daemon, beside = directives("appliance.service"), directives("appliance-.service.d/10-sandbox.conf")
    wanted = {key: value for key, value in daemon.items() if key.startswith(kinds) and key not in own}
    assert {key: beside.get(key) for key in wanted} == wanted
    assert daemon["SystemCallFilter"][:2] == beside["SystemCallFilter"]


def test_what_would_break_the_engine_is_named_as_left_out() -> None:
    text = (UNITS / "appliance.service").read_text("utf-8")
    absent = {"MemoryDenyWriteExecute", "ProcSubset", "PrivateNetwork", "LoadCredential", "MemoryMax", "LimitNOFILE"}
    assert absent & directives("appliance.service").keys() == set()
    assert {name for name in absent if re.search(rf"^# Absent: .*\b{name}\b", text, re.MULTILINE)} == absent


# What puts a changed socket unit in force: systemd restarts none while its service runs ("Socket service already
# active"), and a restart of the service alone leaves the old socket, or none.
IN_FORCE = (
    "systemctl daemon-reload; systemctl stop appliance.socket appliance.service; "
    "systemctl start appliance.socket appliance.service"
)


def test_what_opens_the_lan_is_said_in_the_same_words_wherever_one_looks() -> None:
    drop_ins = ("optional/appliance.socket.d/lan.conf", "system-appliance.slice.d/50-lan.conf")
    for text in (*((UNITS / name).read_text("utf-8") for name in drop_ins), SKELETON):
        assert f"#   {IN_FORCE.replace('service; systemctl start', f'service{NEXT}systemctl start')}\n" in text
    for page in ("systemd.md", "operations.md"):
        assert f"```sh\n{IN_FORCE}\n```" in (ROOT / "docs" / page).read_text("utf-8")


def test_nothing_tells_to_restart_the_socket_unit() -> None:
    texts = [*FILES, *(ROOT / "docs").glob("*.md"), *(ROOT / "appliance").rglob("*.py")]
    assert [file.name for file in texts if "restart appliance.socket" in file.read_text("utf-8")] == []
