"""ROOM a function, a built-in, an MCP server or a foreign schema as a tool: checking, running, results.

Nothing is loaded with the room: it needs asyncio, which takes longer to import than all the rest of a start.
"""
