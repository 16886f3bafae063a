"""Which settings differ, and which of them a running daemon takes up. Knows settings; applies nothing."""

import msgspec
from msgspec import Struct

from appliance.config.settings import Settings

LIVE = frozenset(
    {
        "server.max_connections",
        "server.max_connections_per_client",
        "server.max_message_bytes",
        "server.allowed_origins",
        "server.heartbeat_s",
        "server.outbox_max_messages",
        "server.drain_timeout_s",
        "server.resume_grace_s",
        "server.resume_buffer_chars",
        "engine.default_max_tokens",
        "models.min_speed_ratio",
        "models.canary_prompt",
        "models.canary_expect",
        # These four are read by commands, each time that one runs.
        "models.source_timeout_s",
        "models.download_timeout_s",
        "models.trusted_keys",
        "models.max_store_bytes",
        "dispatch.max_waiting",
        "dispatch.max_waiting_per_client",
        "dispatch.default_deadline_s",
        "dispatch.max_deadline_s",
        "limits.max_tokens",
        "limits.max_live_requests",
        "limits.max_messages",
        "limits.max_stop",
        "logging.level",
    }
)
"""Settings that count in a running daemon once it has read them again; all others need a restart."""


class Changes(Struct, frozen=True):
    """Names of settings, as "section.key"."""

    changed: list[str]
    """In force now, with their new values."""
    needs_restart: list[str]
    """New in file or environment, and in force from the next start on."""
    socket_decides: list[str] = []
    """Given, and without effect, as systemd has made the sockets and they say otherwise."""
    certificate_until: str | None = None
    """Where new connections are shown another certificate: when it expires, in UTC, ISO 8601."""


def compare(old: Settings, new: Settings) -> Changes:
    """What is to be taken up of `new` where `old` is in force, and what can't be."""
    differ = [
        f"{section}.{key}"
        for section in Settings.__struct_fields__
        for key in getattr(old, section).__struct_fields__
        if getattr(getattr(old, section), key) != getattr(getattr(new, section), key)
    ]
    return Changes([name for name in differ if name in LIVE], [name for name in differ if name not in LIVE])


def same_files(old: Settings, new: Settings) -> bool:
    """Whether TLS has its certificate and its key from the same files."""
    a, b = old.server, new.server
    return (a.tls_certificate_file, a.tls_key_file) == (b.tls_certificate_file, b.tls_key_file)


def taken_up(old: Settings, new: Settings) -> Settings:
    """`old` with the live values of `new`."""
    values: dict[str, dict[str, object]] = {}
    for name in LIVE:
        section, _, key = name.partition(".")
        values.setdefault(section, {})[key] = getattr(getattr(new, section), key)
    sections = {
        section: msgspec.structs.replace(getattr(old, section), **changed) for section, changed in values.items()
    }
    return msgspec.structs.replace(old, **sections)
