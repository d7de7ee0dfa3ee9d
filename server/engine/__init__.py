"""The engine of the server: one thread that owns a runtime, its slots and their queue. It knows tokens, not HTTP."""

from codegen_edge.server.engine.engine import Engine
from codegen_edge.server.engine.jobs import (
    DrainingError,
    EngineDeadError,
    Event,
    Failed,
    Job,
    Piece,
    QueueFullError,
    Scored,
    Started,
    Ticket,
)
from codegen_edge.server.engine.state import EngineSettings, EngineState

__all__ = [
    "DrainingError",
    "Engine",
    "EngineDeadError",
    "EngineSettings",
    "EngineState",
    "Event",
    "Failed",
    "Job",
    "Piece",
    "QueueFullError",
    "Scored",
    "Started",
    "Ticket",
]
