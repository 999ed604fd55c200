# One image; the command chooses what it runs:
#   serve (default) | migrate | relay | worker | eda
# Build: docker build -t mcp-broker .   EDA's part (ansible, Java) comes with --build-arg EXTRAS="--extra eda".
ARG PYTHON_IMAGE=python:3.12.12-slim-trixie
FROM ${PYTHON_IMAGE} AS build
RUN pip install --no-cache-dir uv==0.13.9
ARG EXTRAS=""
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/opt/broker
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --locked --no-dev --no-install-project $EXTRAS
COPY adapters adapters
COPY app app
COPY relay relay
COPY worker worker
COPY migrations migrations
COPY rulebooks rulebooks
COPY playbooks playbooks
COPY alembic.ini alembic.ini
RUN uv sync --locked --no-dev --no-editable $EXTRAS

FROM ${PYTHON_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/broker --create-home broker
COPY --from=build /opt/broker /opt/broker
COPY deploy/entrypoint.sh /usr/local/bin/entrypoint
ENV PATH=/opt/broker/bin:$PATH MCP_BROKER_HOST=0.0.0.0 MCP_BROKER_PORT=8080
USER broker
WORKDIR /var/lib/broker
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["entrypoint", "health"]
ENTRYPOINT ["entrypoint"]
CMD ["serve"]
