"""Lynceus serves vision models over HTTP and gRPC."""

__version__ = "0.2.0"
