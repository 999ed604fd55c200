"""How the broker is reached: by options of an action or a source, or by the environment.

The standard library alone, as actions run within Ansible and sources within ansible-rulebook.
Variables are not looked at: whoever may launch a job with extra variables could send the token
elsewhere.
"""

from __future__ import annotations

import os

OPTIONS = {
    "broker_url": "MCP_BROKER_URL",
    "token": "MCP_BROKER_TOKEN",
    "token_file": "MCP_BROKER_TOKEN_FILE",
    "ca_file": "MCP_BROKER_CAFILE",
    "client_cert": "MCP_BROKER_CERTFILE",
    "client_key": "MCP_BROKER_KEYFILE",
}
"""Options of the actions and of mcpbroker.eda.control, and the environment's names for them."""


class NoTokenError(Exception):
    """There is no token, or its file cannot be read."""


class Broker:
    """An address, a token or a file that is read anew for each request, and files of TLS:
    authorities, a client's certificate and its key.
    """

    def __init__(self, args: dict) -> None:
        """By options, each of which the environment may give instead."""
        found = {name: args.get(name) or os.environ.get(env) for name, env in OPTIONS.items()}
        if args.get("token") and not args.get("token_file"):
            found["token_file"] = None  # the nearer one counts
        self.url = str(found["broker_url"] or "http://127.0.0.1:8080").rstrip("/")
        self.token = found["token"]
        self.token_file = found["token_file"]
        self.ca_file = found["ca_file"]
        self.client_cert = found["client_cert"]
        self.client_key = found["client_key"]

    def bearer(self) -> str:
        """The token as it is now.

        Raises:
            NoTokenError: there is none.
        """
        if self.token_file:
            try:
                with open(self.token_file, encoding="utf-8") as file:
                    return file.read().strip()
            except OSError as error:
                raise NoTokenError(f"the adapter's token cannot be read: {error}") from None
        if not self.token:
            names = "MCP_BROKER_TOKEN_FILE or MCP_BROKER_TOKEN"
            raise NoTokenError(f"set {names} for the adapters, or the option token_file")
        return self.token
