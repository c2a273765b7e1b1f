//! The bundled MCP server, `llm-server tools`.
