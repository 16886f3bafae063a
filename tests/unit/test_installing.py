"""`appliance install` as far as it goes without a host: plans, steps, and what is removed below a root."""

import json
import os
import shlex
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance import __version__
from appliance.cli import app
from appliance.config import load
from appliance.installing import release, removal
from appliance.installing.errors import InstallError
from appliance.installing.layout import Layout
from appliance.installing.plan import require_host
from appliance.installing.skeleton import SKELETON
from appliance.installing.step import Step
from appliance.installing.steps import Command, Prune, Switch
from appliance.installing.unit_files import PlaceFile, RemoveStale, place_files

UNITS = Path(__file__).parents[2] / "deploy/systemd"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty system."""
    root = tmp_path / "root"
    root.mkdir()
    return Layout(root)


def whole_release(layout: Layout, version: str, extras: Sequence[str] = ("systemd",)) -> Path:
    """A release of nothing, as far as its place goes."""
    made = layout.release(version)
    made.mkdir(parents=True)
    (made / release.RECORD_NAME).write_text(json.dumps({"version": version, "extras": list(extras)}))
    return made


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def run(*arguments: str) -> "tuple[int, str]":
    done = CliRunner().invoke(app, ["install", *arguments])
    return done.exit_code, done.output


def test_a_dry_run_names_each_thing_and_changes_nothing(layout: Layout) -> None:
    status, output = run("--system", "--dry-run", "--root", str(layout.root))
    assert status == 0
    lines = output.splitlines()
    assert all(line.startswith("would ") for line in lines)
    for wanted in (
        f"would install the running installation to {layout.root}/opt/appliance/releases/{__version__}",
        f"would write {layout.root}/usr/local/lib/systemd/system/appliance.service",
        f"would write {layout.root}/etc/systemd/system/system-appliance.slice.d/50-lan.conf",
        f"would write {layout.root}/etc/appliance/appliance.toml",
        "would create the user appliance",
        "would enable appliance.service and appliance.socket",
        f"would point {layout.root}/opt/appliance/current to {__version__}",
    ):
        assert wanted in lines
    assert tree(layout.root) == set()


def test_without_system_it_is_wrong_usage() -> None:
    status, output = run()
    assert status == 2
    assert "--system" in output


def test_what_is_not_installed_is_not_removed(layout: Layout) -> None:
    status, output = run("--system", "--purge", "--root", str(layout.root))
    assert (status, output) == (0, "nothing to do: it is not installed\n")


def test_only_root_installs_into_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    require_host(Layout(), "appliance", dry_run=True)
    monkeypatch.delattr(removal, "alone")  # whatever else goes wrong here, nothing is removed
    for flags in ("--uninstall", "--purge", "--extras 'systemd, quantize'"):
        given = ["/srv/first/bin/appliance", "install", "--system", *shlex.split(flags)]
        monkeypatch.setattr(sys, "argv", given)
        told = str(CliRunner().invoke(app, given[1:]).exception)
        assert f"sudo /srv/first/bin/appliance install --system {flags} (or --dry-run)" in told
    with pytest.raises(InstallError, match=r"sudo appliance install --system --wheels DIR \(or --dry-run\)"):
        require_host(Layout(), "appliance install --system --wheels DIR", dry_run=False)


def test_the_settings_that_a_host_begins_with_are_the_defaults_and_can_be_uncommented(tmp_path: Path) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(SKELETON)
    empty = tmp_path / "empty.toml"
    empty.touch()
    assert load(file).settings == load(empty).settings
    commented = [line.removeprefix("# ") for line in SKELETON.splitlines() if " = " in line or line.startswith("[")]
    assert len(tomllib.loads("\n".join(commented))) >= 3
    file.write_text("\n".join(commented))
    load(file)


def test_units_go_where_the_administrator_s_go_and_who_may_connect_is_the_operator_s(layout: Layout) -> None:
    steps = place_files(layout, UNITS, systemd_version=252)
    for step in steps:
        assert step.pending() is not None
        step.apply()
    assert all(step.pending() is None for step in steps)
    placed = tree(layout.root)
    assert {f"usr/local/lib/systemd/system/{name}" for name in ("appliance.service", "appliance.socket")} <= placed
    assert "usr/local/lib/systemd/system/appliance-.service.d/10-sandbox.conf" in placed
    assert "usr/local/lib/sysusers.d/appliance.conf" in placed
    assert not any("optional" in name or "restart-steps" in name for name in placed)
    assert {path.stat().st_mode & 0o777 for path in layout.root.rglob("*") if path.is_file()} == {0o644}

    for kept in (layout.settings, layout.own_units / "system-appliance.slice.d/50-lan.conf"):
        kept.write_text("# the operator's\n")
    (layout.units / "appliance.service").write_text("# somebody's hand\n")
    again = [step.pending() for step in place_files(layout, UNITS, systemd_version=252)]
    assert [line for line in again if line] == [f"replace {layout.units}/appliance.service"]


def test_pauses_that_grow_are_for_a_systemd_that_knows_them(layout: Layout) -> None:
    targets = {str(step.target) for step in place_files(layout, UNITS, systemd_version=254)}
    assert f"{layout.units}/appliance.service.d/restart-steps.conf" in targets


def test_units_of_an_older_release_go_and_come_back_where_the_upgrade_fails(layout: Layout) -> None:
    wanted = PlaceFile(lambda: b"new", layout.units / "appliance.service")
    old = layout.units / "appliance-old.timer"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    (layout.units / "appliance.service").write_bytes(b"before")
    (layout.units / "nginx.service").write_bytes(b"theirs")
    stale = RemoveStale(layout, [wanted])
    wanted.apply()
    stale.apply()
    assert {path.name for path in layout.units.iterdir()} == {"appliance.service", "nginx.service"}
    wanted.revert()
    stale.revert()
    assert (layout.units / "appliance.service").read_bytes() == b"before"
    assert old.read_bytes() == b"old"


def test_current_and_previous_follow_and_go_back(layout: Layout) -> None:
    steps = [Switch(layout, version, lambda: None) for version in ("1.0", "1.1", "1.2")]
    for step, version in zip(steps, ("1.0", "1.1", "1.2"), strict=True):
        whole_release(layout, version)
        assert step.pending() is not None
        step.apply()
        assert step.pending() is None
    assert (layout.version_of(layout.current), layout.version_of(layout.previous)) == ("1.2", "1.1")
    steps[-1].revert()
    assert (layout.version_of(layout.current), layout.version_of(layout.previous)) == ("1.1", "1.0")


def test_a_release_whose_settings_are_wrong_is_not_switched_to(layout: Layout) -> None:
    whole_release(layout, "1.0")

    def refuse() -> None:
        raise InstallError("no")

    with pytest.raises(InstallError):
        Switch(layout, "1.0", refuse).apply()
    assert layout.version_of(layout.current) is None


def test_all_releases_but_the_current_and_the_previous_go_with_what_was_never_whole(layout: Layout) -> None:
    for version in ("1.0", "1.1", "1.2"):
        whole_release(layout, version)
        Switch(layout, version, lambda: None).apply()
    (layout.releases / ".making-x").mkdir()
    step = Prune(layout)
    assert step.pending() == "remove old releases: .making-x, 1.0"
    step.apply()
    assert {path.name for path in layout.releases.iterdir()} == {"1.1", "1.2"}
    assert step.pending() is None


def test_somebody_else_s_command_stays(layout: Layout) -> None:
    layout.command.parent.mkdir(parents=True)
    layout.command.write_text("theirs")
    assert Command(layout).pending() is None
    layout.command.unlink()
    step = Command(layout)
    assert step.pending() is not None
    step.apply()
    assert layout.command.readlink() == Path("/opt/appliance/current/bin/appliance")
    assert step.pending() is None
    assert not Command.is_foreign(layout)


def test_purge_below_a_root_takes_what_is_ours_and_nothing_else(layout: Layout) -> None:
    whole_release(layout, __version__)
    steps: list[Step] = [*place_files(layout, UNITS, 252), Switch(layout, __version__, lambda: None), Command(layout)]
    for step in steps:
        step.apply()
    layout.state.mkdir(parents=True)
    (layout.own_units / "appliance.service.d").mkdir()
    (layout.own_units / "appliance.service.d/mine.conf").write_text("")
    theirs = layout.own_units / "nginx.service"
    theirs.write_text("")

    status, output = run("--system", "--uninstall", "--root", str(layout.root))
    assert status == 0, output
    left = tree(layout.root)
    assert {"etc/appliance/appliance.toml", "var/lib/appliance", "etc/systemd/system/nginx.service"} <= left
    assert "etc/systemd/system/appliance.service.d/mine.conf" in left
    assert not any(name.startswith(("opt/appliance", "usr/local/bin/", "usr/local/lib/systemd")) for name in left)

    status, output = run("--system", "--purge", "--root", str(layout.root))
    assert status == 0, output
    assert [name for name in tree(layout.root) if "appliance" in name] == []
    assert theirs.exists()


def test_an_upgrade_has_the_extras_of_the_release_before_it(layout: Layout) -> None:
    def planned(*flags: str) -> str:
        status, output = run("--system", "--dry-run", "--root", str(layout.root), *flags)
        assert status == 0
        return next((line for line in output.splitlines() if " install " in line), "")

    assert planned().endswith(f"/releases/{__version__}")
    old = whole_release(layout, "0.0.1", ["systemd", "quantize"])
    layout.current.symlink_to(f"releases/{old.name}")
    assert planned().endswith(f"/releases/{__version__} with systemd, quantize")
    assert planned("--extras", "systemd").endswith(f"/releases/{__version__}")
    # Back to a release that is there: as it is, in seconds.
    units = whole_release(layout, __version__) / "lib/python3.11/site-packages/appliance/data/systemd"
    shutil.copytree(UNITS, units)
    assert planned() == ""
    assert planned("--extras", "systemd,quantize").endswith("with systemd, quantize")
    assert planned("--force").endswith(f"/releases/{__version__}")
