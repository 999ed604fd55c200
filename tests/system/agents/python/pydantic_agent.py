"""Pydantic AI's agent, with an MCP server's tools: does what it is asked, says the end."""

# The package is in an environment of its own.
# pyright: basic, reportMissingImports=false

import asyncio
import os
import sys

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['BROKER_TOKEN']}"}
    server = MCPToolset(os.environ["BROKER"], headers=headers)
    provider = OpenAIProvider(base_url=os.environ["MODEL"], api_key="none")
    agent = Agent(OpenAIChatModel("scripted-1", provider=provider), toolsets=[server], retries=3)
    async with agent:
        done = await agent.run(sys.argv[1])
    sys.stdout.write(done.output)


asyncio.run(main())
