"""Wire shapes that clients see. Knows no sockets and no engine."""
