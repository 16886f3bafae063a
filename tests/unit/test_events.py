"""The events that an operator acts on: each has an id, fields, and an explanation in the journal's catalog."""

import ast
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.observability.events import Event
from appliance.observability.journal import field_name
from tests.unit.test_docs import ROOT, anchors, commands, table_rows, unique

CATALOG = ROOT / "deploy/systemd/appliance.catalog"
MANUAL = "file:///opt/appliance/current/share/doc/appliance/"


class Entry(NamedTuple):
    headers: dict[str, str]
    text: str


class Call(NamedTuple):
    """A call of `fields` or `event` in the code."""

    where: str
    kinds: set[str]
    keys: set[str]


def catalog() -> dict[str, Entry]:
    """By message id."""
    entries: list[tuple[str, object]] = []
    for block in re.split(r"^-- ", CATALOG.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        head, _, text = block.partition("\n\n")
        message_id, *headers = head.splitlines()
        text = "\n".join(line for line in text.splitlines() if not line.startswith("#")).strip()
        pairs: list[tuple[str, object]] = [
            (name, value) for name, _, value in (line.partition(": ") for line in headers)
        ]
        entries.append((message_id, Entry({k: str(v) for k, v in unique(pairs).items()}, text)))
    return {message_id: entry for message_id, entry in unique(entries).items() if isinstance(entry, Entry)}


def calls() -> Iterator[Call]:
    """Those of the whole program. Which events: those that are named in the call, else in the function around it."""
    for path in sorted((ROOT / "appliance").rglob("*.py")):
        if path.name == "events.py":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if (
                        isinstance(node, ast.Call)
                        and isinstance(node.func, ast.Name)
                        and node.func.id in ("fields", "event")
                    ):
                        kinds = event_names(node.args[0]) or event_names(function) if node.args else set()
                        keys = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                        yield Call(f"{path.name}:{node.lineno}", kinds, keys)


def event_names(node: ast.AST) -> set[str]:
    return {
        found.attr
        for found in ast.walk(node)
        if isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name) and found.value.id == "Event"
    }


def test_ids_are_random_and_unique() -> None:
    ids = [event.message_id for event in Event]
    assert len(ids) == len(set(ids))
    assert all(uuid.UUID(hex=i).version == 4 and re.fullmatch("[0-9a-f]{32}", i) for i in ids)


def test_the_catalog_explains_each_event_and_no_other() -> None:
    assert set(catalog()) == {event.message_id for event in Event}


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
def test_an_explanation_is_whole(event: Event) -> None:
    entry = catalog()[event.message_id]
    assert set(entry.headers) == {"Subject", "Defined-By", "Documentation"}
    assert entry.headers["Defined-By"] == "appliance"
    assert 0 < len(entry.headers["Subject"]) <= 80
    assert entry.headers["Documentation"].startswith(MANUAL)
    page, _, anchor = entry.headers["Documentation"].removeprefix(MANUAL).partition("#")
    assert (ROOT / "docs" / page).is_file()
    assert not anchor or anchor in anchors(ROOT / "docs" / page)
    assert all(len(line) <= 120 for line in entry.text.splitlines())


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
def test_an_explanation_names_fields_that_the_event_always_has(event: Event) -> None:
    entry = catalog()[event.message_id]
    named = set(re.findall(r"@([A-Z0-9_]+)@", entry.text + entry.headers["Subject"]))
    assert named <= {field_name(key) for key in event.always}


def test_an_event_is_logged_with_the_fields_that_it_always_has() -> None:
    lacking = [(call.where, kind) for call in calls() for kind in call.kinds if set(Event[kind].always) - call.keys]
    assert lacking == []


def test_each_event_is_logged() -> None:
    told = {kind for call in calls() for kind in call.kinds}
    assert {event.name for event in Event} == told


def test_an_explanation_names_no_command_that_does_not_exist() -> None:
    text = CATALOG.read_text("utf-8")
    named = set(re.findall(r"(?:^ *|[`:?] |`)appliance ([a-z-]+)", text, re.MULTILINE))
    assert {"models", "tune"} <= named <= set(commands())


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="the journal's tools are not installed here")
def test_systemd_takes_the_catalog(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    shutil.copy(CATALOG, place)
    made = subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    listed = subprocess.run(["journalctl", f"--root={tmp_path}", "--list-catalog"], capture_output=True, text=True)
    found = {line.split()[0]: line.partition(": ")[2] for line in listed.stdout.splitlines()}
    assert found == {message_id: entry.headers["Subject"] for message_id, entry in catalog().items()}


def test_the_docs_list_each_event_with_its_id() -> None:
    rows = table_rows("docs/operations.md", "logged event")
    documented = unique([(row[0].strip("`"), row[1].strip("`")) for row in rows])
    assert documented == {event.name: event.message_id for event in Event}


def test_the_docs_name_no_field_that_is_not_logged_and_all_of_a_request() -> None:
    documented = {row[0].strip("`") for row in table_rows("docs/operations.md", "field")}
    logged = {field_name(key) for call in calls() for key in call.keys}
    elsewhere = {"MESSAGE_ID", "MORE_LIKE_IT", "LOG_LINES_DROPPED_BEFORE"}
    assert documented - logged - elsewhere == set()
    (request,) = [call.keys for call in calls() if {"outcome", "ttft_ms", "client"} <= call.keys]
    assert {field_name(key) for key in request} <= documented
