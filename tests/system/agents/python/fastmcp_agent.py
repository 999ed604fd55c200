"""A loop around FastMCP's client, which is no agent: each result's text is what the model is told.

A failure is the text of the error that the client raises, as a loop of anybody's would have it.
"""

# The package is in an environment of its own.
# pyright: basic, reportMissingImports=false

import asyncio
import json
import os
import sys
from typing import Any

import httpx
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from fastmcp.exceptions import ToolError


async def call(client: Client, asked: dict[str, Any]) -> str:
    try:
        made = await client.call_tool(asked["name"], json.loads(asked["arguments"]))
    except ToolError as error:
        return str(error)
    return "\n".join(getattr(one, "text", "") or one.type for one in made.content)


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['BROKER_TOKEN']}"}
    transport = StreamableHttpTransport(os.environ["BROKER"], headers=headers)
    messages: list[dict[str, Any]] = [{"role": "user", "content": sys.argv[1]}]
    async with Client(transport) as client, httpx.AsyncClient(timeout=60) as model:
        tools = [
            {
                "type": "function",
                "function": {
                    "name": one.name,
                    "description": one.description,
                    "parameters": getattr(one, "input_schema", None) or one.inputSchema,
                },
            }
            for one in await client.list_tools()
        ]
        while True:
            body = {"model": "scripted-1", "messages": messages, "tools": tools}
            answer = await model.post(f"{os.environ['MODEL']}/chat/completions", json=body)
            said = answer.raise_for_status().json()["choices"][0]["message"]
            messages.append(said)
            if "tool_calls" not in said:
                sys.stdout.write(said["content"])
                return
            for one in said["tool_calls"]:
                told = await call(client, one["function"])
                messages.append({"role": "tool", "tool_call_id": one["id"], "content": told})


asyncio.run(main())
