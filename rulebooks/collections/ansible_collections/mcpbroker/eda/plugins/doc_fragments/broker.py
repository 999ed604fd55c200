"""Options that each action has: which command, and how the broker is reached."""
# Apache-2.0

from __future__ import annotations


class ModuleDocFragment:
    """What module_utils/connection.py and module_utils/results.py read."""

    DOCUMENTATION = r"""
options:
  command:
    description: The envelope. By default the event's body or the variable mcp_command.
    type: raw
  broker_url:
    description: The broker's address. Else the environment's E(MCP_BROKER_URL).
    type: str
  token:
    description: The adapters' token. Else the environment's E(MCP_BROKER_TOKEN).
    type: str
  token_file:
    description:
      - A file with the token, read at each request. Else the environment's
        E(MCP_BROKER_TOKEN_FILE).
    type: path
  ca_file:
    description: Authorities of the broker's certificate. Else E(MCP_BROKER_CAFILE).
    type: path
  client_cert:
    description: A client's certificate to present. Else E(MCP_BROKER_CERTFILE).
    type: path
  client_key:
    description: The certificate's key. Else E(MCP_BROKER_KEYFILE).
    type: path
"""
