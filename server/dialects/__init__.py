"""What other clients speak, in one file each: all of it is translated into the one request of /v1/completions."""

from __future__ import annotations

from starlette.routing import Route

from codegen_edge.server.dialects import completions, copilot, fim, infill, llamacpp, llm_ls, tabby

__all__ = ["dialect_routes"]


def dialect_routes() -> list[Route]:
    """The routes of all dialects, /v1/completions and /v1/health among them: they share these with OpenAI's."""
    return [
        Route("/v1/completions", completions.complete, methods=["POST"]),
        Route("/v1/engines/{engine}/completions", copilot.complete, methods=["POST"]),
        Route("/copilot_internal/v2/token", copilot.token),
        Route("/completion", llamacpp.complete, methods=["POST"]),
        Route("/completions", llamacpp.complete, methods=["POST"]),
        Route("/infill", infill.infill, methods=["POST"]),
        Route("/props", llamacpp.props),
        Route("/slots", llamacpp.slots),
        Route("/lora-adapters", llamacpp.lora_adapters),
        Route("/generate", llm_ls.generate_tgi, methods=["POST"]),
        Route("/api/generate", llm_ls.generate_ollama, methods=["POST"]),
        Route("/v1/events", tabby.take_event, methods=["POST"]),
        Route("/v1/health", tabby.health),
        Route("/v1/fim/completions", fim.complete, methods=["POST"]),
        Route("/fim/completions", fim.complete, methods=["POST"]),
    ]
