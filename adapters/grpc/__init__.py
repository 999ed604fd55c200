"""Kind `grpc`: a method of a gRPC service, unary or server-streaming, by pinned descriptors."""

from typing import Final

from adapters.contract import Kind
from adapters.grpc.checks import check
from adapters.grpc.client import GrpcTarget

KIND: Final = Kind(open=GrpcTarget, check=check)
