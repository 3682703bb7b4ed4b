"""Floor 4: the doors. Command line, MCP server, web page."""
