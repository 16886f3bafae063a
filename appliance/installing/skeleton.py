"""The settings file that a host begins with. Knows which settings are asked for first; has no value of its own."""

SKELETON = """\
# Settings of the appliance, read at start. All of them, with their defaults:
#   /opt/appliance/current/share/doc/appliance/configuration.md, or `appliance config show`.
# After a change: appliance config check, then systemctl reload appliance (it names what wants a restart).
# An upgrade leaves this file alone.

[server]
# Where it listens where appliance.socket is off. With it, as installed, the socket unit decides and this has no effect.
# For the LAN copy optional/appliance.socket.d/lan.conf to /etc/systemd/system (systemd.md, "Drop-ins"), then:
#   systemctl daemon-reload; systemctl stop appliance.socket appliance.service
#   systemctl start appliance.socket appliance.service
# host = "0.0.0.0"
# port = 8080
# Browser pages of other origins that may connect.
# allowed_origins = ["http://chat.example.lan:8080"]
# https:// and wss:// in place of http:// and ws:// (operations.md, "TLS").
# tls_certificate_file = "/etc/appliance/tls/certificate.pem"
# tls_key_file = "/etc/appliance/tls/key.pem"

[models]
# The first of these that is installed is served, unless `appliance models use` has chosen.
# preferred = ["qwen2.5-0.5b-instruct", "smollm2-135m-instruct"]

[engine]
# Tokens of all requests together, prompts and answers: the one knob of memory.
# kv_cache_tokens = 32768

[logging]
# level = "info"
"""
