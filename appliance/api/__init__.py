"""HTTP and WebSocket in front of dispatch. The only server-side code that knows aiohttp."""
