"""The daemon's control socket: what its owner and root may ask of it, over HTTP on RUNTIME/control.sock."""
