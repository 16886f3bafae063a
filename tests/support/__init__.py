"""What several suites need: a daemon in this process, a raw WebSocket peer, an engine that is listened to."""
