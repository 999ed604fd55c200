"""A FastMCP proxy of a server, run by a Python that has fastmcp: URL PORT."""

import sys

from fastmcp.server import create_proxy  # pyright: ignore[reportMissingImports]


def main() -> None:
    proxy = create_proxy(sys.argv[1], name="proxy")
    proxy.run(
        transport="http",
        host="127.0.0.1",
        port=int(sys.argv[2]),
        stateless_http=True,
        show_banner=False,
        log_level="ERROR",
    )


if __name__ == "__main__":
    main()
