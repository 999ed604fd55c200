"""LangChain's agent, with the tools of its MCP adapters: does what it is asked, says the end."""

# The package is in an environment of its own.
# pyright: basic, reportMissingImports=false

import asyncio
import os
import sys
from datetime import timedelta

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_openai import ChatOpenAI


async def main() -> None:
    headers = {"Authorization": f"Bearer {os.environ['BROKER_TOKEN']}"}
    # Without it a call whose broker was killed is waited for for ever.
    bounds = {"read_timeout_seconds": timedelta(seconds=40)}
    server = {"transport": "http", "url": os.environ["BROKER"], "headers": headers}
    client = MultiServerMCPClient({"broker": {**server, "session_kwargs": bounds}})
    model = ChatOpenAI(model="scripted-1", base_url=os.environ["MODEL"], api_key="none")
    agent = create_agent(model, await client.get_tools())
    done = await agent.ainvoke({"messages": [{"role": "user", "content": sys.argv[1]}]})
    sys.stdout.write(done["messages"][-1].content)


asyncio.run(main())
