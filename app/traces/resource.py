"""What a process is to whoever reads its spans, log lines and metrics."""

import os
import socket

from opentelemetry.sdk.resources import Resource

from app import assets


def resource(service: str) -> Resource:
    """As OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say it; `service` is the deployment's."""
    found = Resource.create(
        {
            "service.version": assets.version(),
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
    )
    if not str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        return found
    return found.merge(Resource({"service.name": f"mcp-broker-{service}"}))
