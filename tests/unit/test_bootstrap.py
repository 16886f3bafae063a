"""deploy/bootstrap.sh with a scripted Python, pip, gcc and apt-get: what it asks for, in which order, and when not."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "deploy" / "bootstrap.sh"
TOOLS = [
    "bash", "cat", "cp", "cut", "dirname", "env", "flock", "head", "mkdir",
    "mktemp", "mv", "realpath", "rm", "sed", "sh", "sha256sum", "tee",
]  # fmt: skip

# Answers the questions that the script asks with -c; `venv` leaves a copy of itself as .venv/bin/python.
PYTHON = """#!/bin/bash
case "$*" in
  *_base_executable*) [ -e "$HOST/old-${0##*/}" ] && exit 1; cat "${0%/*}/base" 2>/dev/null || echo "$0"; exit 0 ;;
  *"import ensurepip"*) [ ! -e "$HOST/no-venv" ]; exit ;;
  *Python.h*) [ ! -e "$HOST/no-headers" ]; exit ;;
esac
echo "${0##*/} $*" >>"$HOST/calls"
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo "$0" >.venv/bin/base ;;
  *--editable*) if [ -e "$HOST/pip-fails" ]; then echo "no matching distribution"; exit 1; fi ;;
esac
"""
APT_GET = '#!/bin/bash\necho "apt-get $*" >>"$HOST/calls"; rm -f "$HOST/no-gcc" "$HOST/no-libsystemd"\n'
STUBS = {
    "python3": PYTHON,
    "gcc": '#!/bin/bash\n[ ! -e "$HOST/no-gcc" ]\n',
    "pkg-config": '#!/bin/bash\n[ ! -e "$HOST/no-libsystemd" ]\n',
    "apt-get": APT_GET,
    "sudo": "#!/bin/bash\n",
    "id": '#!/bin/bash\n[ -e "$HOST/is-root" ] && echo 0 || echo 1000\n',
}


class Host:
    """A machine of which only PATH is real."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"{tool} is needed by the script and is not on this machine"
            (self.bin / tool).symlink_to(found)
        for name, text in STUBS.items():
            self.install(name, text)
        self.checkout = directory / "checkout"
        (self.checkout / "deploy").mkdir(parents=True)
        (self.checkout / "appliance").mkdir()
        shutil.copy(SOURCE, self.checkout / "deploy")
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        (self.checkout / "appliance" / "__init__.py").write_text('__version__ = "1"\n')
        self.as_cloned = self.files()

    def install(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def has(self, *facts: str) -> None:
        for fact in facts:
            (self.directory / fact).touch()

    def files(self) -> set[str]:
        return {str(path.relative_to(self.checkout)) for path in self.checkout.rglob("*")}

    def run(self, purpose: str = "serve", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.checkout / "deploy" / "bootstrap.sh", purpose],
            env={"PATH": str(self.bin), "HOST": str(self.directory), "TMPDIR": str(self.directory), **environment},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def installs(self, purpose: str = "serve") -> list[str]:
        """What a run that succeeds calls."""
        done = self.run(purpose)
        assert done.returncode == 0, done.stderr
        return self.calls()

    def calls(self) -> list[str]:
        """What was called since the last time that this was asked."""
        log = self.directory / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


PIP = "python -m pip install --no-input --disable-pip-version-check"
MAKE_VENV = "python3 -m venv .venv"


def installed(extras: str) -> list[str]:
    return [f"{PIP} pip>=25.1", f"{PIP} --editable .[{extras}]"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_whole_host_gets_an_environment_and_the_project(host: Host) -> None:
    assert host.installs() == [MAKE_VENV, *installed("systemd")]


def test_the_second_run_calls_nothing_and_says_nothing(host: Host) -> None:
    host.installs()
    again = host.run()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert host.calls() == []


def test_what_the_tests_need_is_enough_to_serve_and_not_the_other_way_round(host: Host) -> None:
    host.installs("serve")
    assert host.installs("test") == installed("systemd,dev")
    assert host.installs("serve") == []


def test_what_the_benchmark_needs_is_enough_for_the_rest_and_not_the_other_way_round(host: Host) -> None:
    host.installs("test")
    assert host.installs("bench") == installed("systemd,dev,bench")
    assert host.installs("test") == host.installs("serve") == []


def test_one_environment_does_for_purposes_of_which_neither_holds_the_other(host: Host) -> None:
    host.installs("bench")
    assert host.installs("export") == installed("systemd,dev,export,bench")
    assert host.installs("bench") == host.installs("export") == host.installs("test") == []


def test_what_an_earlier_purpose_needed_is_brought_up_to_date_too(host: Host) -> None:
    host.installs("export")
    with (host.checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert host.installs("serve") == installed("systemd,dev,export")
    assert host.installs("export") == []


@pytest.mark.parametrize("changed", ["pyproject.toml", "appliance/__init__.py"])
def test_changed_dependencies_or_version_are_installed_into_the_same_environment(host: Host, changed: str) -> None:
    host.installs()
    with (host.checkout / changed).open("a") as file:
        file.write("# changed\n")
    assert host.installs() == installed("systemd")


def test_an_installation_that_failed_is_shown_and_done_again(host: Host) -> None:
    host.has("pip-fails")
    failed = host.run()
    assert failed.returncode == 1
    assert "no matching distribution" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("bootstrap: pip failed")
    host.calls()
    (host.directory / "pip-fails").unlink()
    assert host.installs() == [MAKE_VENV, *installed("systemd")]


def test_a_moved_checkout_gets_a_new_environment(host: Host) -> None:
    host.installs()
    host.checkout = host.checkout.rename(host.directory / "elsewhere")
    assert host.installs() == [MAKE_VENV, *installed("systemd")]


def test_an_environment_whose_python_is_gone_is_made_anew(host: Host) -> None:
    host.installs()
    (host.checkout / ".venv" / "bin" / "python").unlink()
    assert host.installs() == [MAKE_VENV, *installed("systemd")]


def test_missing_packages_cost_a_user_one_command_and_change_nothing(host: Host) -> None:
    host.has("no-gcc", "no-libsystemd")
    refused = host.run()
    assert refused.returncode == 1
    commands = [line.strip() for line in refused.stderr.splitlines() if "apt-get" in line]
    assert commands == [
        "sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libsystemd-dev'"
    ]
    assert host.calls() == []
    assert host.files() == host.as_cloned


def test_missing_packages_are_installed_for_root_before_anything_else(host: Host) -> None:
    host.has("no-gcc", "no-libsystemd", "is-root")
    assert host.installs() == [
        "apt-get update -q",
        "apt-get install -y --no-install-recommends gcc libc6-dev libsystemd-dev -q -o DPkg::Lock::Timeout=300",
        MAKE_VENV,
        *installed("systemd"),
    ]


@pytest.mark.parametrize(("lack", "named"), [("no-venv", "ensurepip"), ("no-headers", "Python.h")])
def test_a_python_of_no_distribution_is_refused_by_what_it_lacks(host: Host, lack: str, named: str) -> None:
    host.has(lack)
    refused = host.run()
    assert refused.returncode == 1
    assert named in refused.stderr
    assert host.files() == host.as_cloned


def test_an_old_python_is_passed_over(host: Host) -> None:
    host.install("python3.12", PYTHON)
    host.has("old-python3")
    assert host.installs() == [MAKE_VENV.replace("python3", "python3.12"), *installed("systemd")]


def test_without_a_python_the_package_is_named_and_nothing_changes(host: Host) -> None:
    host.has("old-python3")
    refused = host.run()
    assert refused.returncode == 1
    assert "the package python3" in refused.stderr
    assert host.files() == host.as_cloned


def test_what_runs_test_hosts_is_installed_for_root_and_left_to_the_suite_otherwise(host: Host) -> None:
    host.install("ip", "#!/bin/bash\n")
    host.install("ssh", "#!/bin/bash\n")
    assert host.installs("deploy") == [MAKE_VENV, *installed("systemd,dev")]
    host.has("is-root")
    tools = "debootstrap debian-archive-keyring systemd-container"
    assert host.installs("deploy") == [
        "apt-get update -q",
        f"apt-get install -y --no-install-recommends {tools} -q -o DPkg::Lock::Timeout=300",
    ]
    assert host.installs("test") == []


def test_a_python_that_was_asked_for_is_not_replaced_by_another(host: Host) -> None:
    refused = host.run(PYTHON="/nowhere/python3")
    assert refused.returncode == 1
    assert "PYTHON=/nowhere/python3" in refused.stderr
    assert host.files() == host.as_cloned


def test_an_unknown_purpose_is_answered_with_the_usage(host: Host) -> None:
    refused = host.run("everything")
    assert refused.returncode == 1
    assert "usage:" in refused.stderr
