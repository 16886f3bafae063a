"""Fixtures of the suite on real hosts: a lab for the session, new hosts, bare or with the appliance installed."""

import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.hosts import BOOKWORM, TRIXIE, Host, HostsUnavailable, Lab, Suite, base_root, open_lab, why_not
from tests.support.wheels import wheels_for_hosts

WHEELS = "/srv/wheels"  # where a host finds them
FIRST = "/srv/first"  # an environment with the project, which installs from there
NEWER = "99.0.0"

NewHost = Callable[..., Host]

on_both = pytest.mark.parametrize("suite", [BOOKWORM, TRIXIE], indirect=True, scope="session", ids=str)
on_trixie = pytest.mark.parametrize("suite", [TRIXIE], indirect=True, scope="session", ids=str)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hosts are BOOKWORM where a test does not say otherwise.

    All tests on hosts have the parameter, so that pytest puts those of a suite together: what the session prepares for
    them is there for one suite at a time.
    """
    said = any(mark.args[0] == "suite" for mark in metafunc.definition.iter_markers("parametrize"))
    if "suite" in metafunc.fixturenames and not said:
        metafunc.parametrize("suite", [BOOKWORM], indirect=True, scope="session", ids=str)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The limit of a test does not include what the session prepares, which has limits of its own."""
    for item in items:
        if "deploy" in item.path.parent.name and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120, func_only=True))


def cannot(why: str) -> NoReturn:
    """Leave the tests out, and say why; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Suite:
    """The Debian of the hosts."""
    given: Suite = request.param
    return given


@pytest.fixture(scope="session")
def lab(suite: Suite) -> Iterator[Lab]:
    """Where hosts are made; nothing is left of it at the end, nor after Ctrl-C or SIGTERM."""
    why = why_not()
    if why is not None:
        cannot(why)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with open_lab(base_root(suite)) as opened:
            yield opened
    except HostsUnavailable as error:
        cannot(str(error))
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def wheels(lab: Lab, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of the project and of what it needs, on this machine."""
    directory = tmp_path_factory.mktemp("wheels")
    try:
        wheels_for_hosts(directory, suite=suite)
    except HostsUnavailable as error:
        cannot(str(error))
    return directory


@pytest.fixture
def new_host(lab: Lab) -> Iterator[NewHost]:
    """Makes and starts bare hosts, which end with the test: `new_host("one")`; `over` and `shared` as in Lab.host."""
    made: list[Host] = []

    def start(name: str = "one", *, over: Sequence[Path] = (), shared: Mapping[Path, str] | None = None) -> Host:
        host = lab.host(name, over=over, shared=shared)
        made.append(host)
        return host.start()

    yield start
    for host in made:
        lab.remove(host)


@pytest.fixture(scope="session")
def newer_wheels(wheels: Path, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a project that says it is NEWER."""
    directory = tmp_path_factory.mktemp("newer")
    wheels_for_hosts(directory, NEWER, suite)
    return directory


@pytest.fixture(scope="session")
def carried(lab: Lab, wheels: Path) -> Path:
    """What a host has become by the first step of an installation: the project in a virtual environment of its own."""
    host = lab.host("carried", shared={wheels: WHEELS}).start()
    pip = f"pip install --quiet --no-input --no-index --no-compile --find-links {WHEELS}"
    host.run(f"python3 -m venv {FIRST} && {FIRST}/bin/{pip} 'edge-chat-appliance[systemd]'", timeout_s=600)
    return lab.frozen(host)


@pytest.fixture(scope="session")
def installed(lab: Lab, carried: Path, wheels: Path) -> Path:
    """What a host has become by an installation without a network, for others to begin with.

    Service and socket are not enabled: without a model they would fail at each boot.
    """
    host = lab.host("installed", over=[carried], shared={wheels: WHEELS}).start()
    host.run(f"{FIRST}/bin/appliance install --system --wheels {WHEELS} --no-start", timeout_s=600)
    host.run("systemctl disable appliance.service appliance.socket")
    return lab.frozen(host)


@pytest.fixture
def new_appliance(new_host: NewHost, installed: Path, wheels: Path) -> NewHost:
    """Like `new_host`, with the appliance installed there; it has no model, and is not started."""
    return functools.partial(new_host, over=[installed], shared={wheels: WHEELS})
