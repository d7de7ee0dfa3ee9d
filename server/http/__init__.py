"""The engine over HTTP: OpenAI's completions and what surrounds them, as one ASGI app."""

from codegen_edge.server.http.app import create_app
from codegen_edge.server.http.models import ServedModel
from codegen_edge.server.http.settings import ServerSettings

__all__ = ["ServedModel", "ServerSettings", "create_app"]
