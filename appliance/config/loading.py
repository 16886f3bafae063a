"""Defaults < file < environment < flags, with the origin of every value. Knows nothing of what settings mean."""

import difflib
import errno
import json
import os
import pwd
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import inspect as shapes

from appliance.config.paths import config_candidates
from appliance.config.settings import PublicKey, Settings
from appliance.errors import ConfigError

ENVIRONMENT_PREFIX = "APPLIANCE__"
TLS_FILES = ("tls_certificate_file", "tls_key_file")

SECTIONS: dict[str, type[Struct]] = {f.name: f.type for f in msgspec.structs.fields(Settings)}
_FIELDS = {name: {f.name: f for f in msgspec.structs.fields(cls)} for name, cls in SECTIONS.items()}
_SHAPES = {
    (name, shape.name): shape.type
    for name, cls in SECTIONS.items()
    for shape in shapes.type_info(cls).fields  # type: ignore[attr-defined] # type_info of a Struct is a StructType
}


_KEY_PATTERN = shapes.type_info(PublicKey).pattern  # type: ignore[attr-defined] # type_info of a str is a StrType


class Effective(Struct, frozen=True):
    """The settings in force, and for each "section.key" that is no default where it was said."""

    settings: Settings
    origins: dict[str, str]
    file: Path | None


def load(
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Effective:
    """The effective settings; `flags` maps "section.key" to a value, None meaning that the flag was not given.

    Raises ConfigError, naming the key, where it was said, and what would be right.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    origins: dict[str, str] = {}
    file = _find_file(config)

    def put(section: str, key: str, raw: object, origin: str, *, text: bool = False) -> None:
        values[section][key] = _value(section, key, raw, origin, text=text)
        origins[f"{section}.{key}"] = origin

    if file is not None:
        for section, table in _read_toml(file).items():
            _check_name(section, SECTIONS, "section", f"[{section}]", str(file))
            if not isinstance(table, dict):
                raise ConfigError(f"{section} in {file}: expected a table, as in [{section}]")
            for key, raw in table.items():
                _check_name(key, _FIELDS[section], "setting", f"{section}.{key}", str(file))
                put(section, key, raw, str(file))
    for name, raw in sorted((environ if environ is not None else os.environ).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
            _check_name(section, SECTIONS, "section", name, "the environment")
            _check_name(key, _FIELDS[section], "setting", name, "the environment")
            put(section, key, raw, f"environment {name}", text=True)
    for name, flag in (flags or {}).items():
        if flag is not None:
            section, _, key = name.partition(".")
            put(section, key, flag, f"flag --{key.replace('_', '-')}")
    _check_together(values["server"], origins)
    return Effective(msgspec.convert(values, Settings), origins, file)


def _check_together(server: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """Raises ConfigError where one of the two settings of TLS is there without the other."""
    given = [key for key in TLS_FILES if server.get(key)]
    if len(given) == 1:
        missing = next(key for key in TLS_FILES if key not in given)
        raise ConfigError(
            f"server.{given[0]} ({origins[f'server.{given[0]}']}) is set and server.{missing} is not: "
            "name both for TLS, or none"
        )


def _find_file(config: Path | None) -> Path | None:
    if config is None:
        return next((path for path in config_candidates() if _is_file(path)), None)
    if not _is_file(config):
        raise ConfigError(f"--config {config}: no such file; write one (an empty one will do), or name another") from (
            FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(config))
        )
    return config


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a directory above it that may not be searched
        raise _unreadable(path, error) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        # tomllib shows tables as Python does: ('server',) for [server].
        told = re.sub(r"\('([^)]*?)',?\)", lambda table: "[" + table[1].replace("', '", ".") + "]", str(error))
        raise ConfigError(f"{file} is not valid TOML: {told}") from None
    except RecursionError:
        raise ConfigError(f"{file} is not valid TOML: nested too deep") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} can't be read: {error}") from None
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> ConfigError:
    if not isinstance(error, PermissionError):
        return ConfigError(f"{file} can't be read: {error.strerror or error}")
    return ConfigError(
        f"{file} can't be read by {account()}: {error.strerror}; as root: chmod 644 {file}{and_above(file)}"
    )


def account() -> str:
    """Whose process this is."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's
        return f"user {os.geteuid()}"


def and_above(file: Path) -> str:
    """The directory that keeps it from being reached, as a remedy."""
    closed = next((place for place in reversed(file.absolute().parents) if not os.access(place, os.X_OK)), None)
    return f" && chmod 755 {closed}" if closed is not None else ""


def _check_name(name: str, known: Mapping[str, object], kind: str, shown: str, place: str) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    right = f"did you mean {close[0]}?" if close else f"known {kind}s: {', '.join(known)}"
    raise ConfigError(f"{shown} in {place}: unknown {kind} {name!r}; {right}")


def _value(section: str, key: str, raw: object, origin: str, *, text: bool) -> Any:
    shape = _SHAPES[section, key]
    candidate = raw
    if text and isinstance(shape, shapes.VarTupleType):
        candidate = _list_from_text(str(raw))
    try:
        return msgspec.convert(candidate, _FIELDS[section][key].type, strict=not text)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{section}.{key} = {json.dumps(raw, default=str)} ({origin}): expected {expectation(section, key)}"
        ) from None


def _list_from_text(text: str) -> object:
    """A JSON array, or values with commas between."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            return text
    return [part.strip() for part in text.split(",") if part.strip()]


def expectation(section: str, key: str) -> str:
    """In words, what the setting accepts: "a whole number from 1 to 65535"."""
    shape = _SHAPES[section, key]
    match shape:
        case shapes.LiteralType(values=choices):
            return "one of " + ", ".join(sorted(map(str, choices)))
        case shapes.IntType() | shapes.FloatType():
            noun = "a whole number" if isinstance(shape, shapes.IntType) else "a number"
            low = f" from {shape.ge}" if shape.ge is not None else f" above {shape.gt}" if shape.gt is not None else ""
            high = f" to {shape.le}" if shape.le is not None else ""
            return f"{noun}{low}{high}"
        case shapes.BoolType():
            return "true or false"
        case shapes.VarTupleType(item_type=shapes.StrType(pattern=str(pattern))) if pattern == _KEY_PATTERN:
            return "a list of Ed25519 public keys, each as base64 of its 32 bytes"
        case shapes.VarTupleType(item_type=shapes.StrType(pattern=str())):
            return "a list of origins, such as https://kiosk.example"
        case shapes.VarTupleType(min_length=least):
            return "a list of texts" + (f", at least {least}" if least else "")
        case shapes.StrType(min_length=least) if least:
            return "a text that is not empty" if least == 1 else f"a text of at least {least} characters"
        case _:
            return "a text"
