"""The variables that a unit gives its processes, by what systemd shows of it. Knows systemd's quoting; no settings."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from appliance.doctor.reading import text


def variables_of(unit: Mapping[str, str], root: Path) -> dict[str, str]:
    """Those of Environment=, and over them those of EnvironmentFile=, as far as this account may read it."""
    found = _shown(unit.get("Environment", ""))
    for file in re.findall(r"^(/.*) \(ignore_errors=(?:yes|no)\)$", unit.get("EnvironmentFiles", ""), re.MULTILINE):
        found |= _of_file(text(root / file.lstrip("/")) or "")
    return found


def _shown(environment: str) -> dict[str, str]:
    """Of the property Environment: with spaces between, and quoted as a shell does where one has spaces itself."""
    found = {}
    for posix, quoted, plain in re.findall(r"""\$'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|(\S+)""", environment):
        name, equals, value = (plain or re.sub(r"\\(.)", r"\1", posix or quoted)).partition("=")
        if equals:
            found[name] = value
    return found


def _of_file(content: str) -> dict[str, str]:
    """NAME=VALUE lines with a shell's quotes, and comments; a backslash at its end goes on with a line."""
    found = {}
    for line in content.replace("\\\n", "").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            found[name.strip()] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    """Words outside of quotes stay apart, as systemd has it, where a shell would end the value."""
    try:
        return " ".join(shlex.split(value))
    except ValueError:  # a quote without its end: systemd leaves the line out, and says so
        return value
