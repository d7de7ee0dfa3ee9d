"""The peers: what each one's environment holds, and what it took to install it."""

from __future__ import annotations

from dataclasses import dataclass

# One release everywhere, first: the newest one's default build brings gigabytes of CUDA.
_TORCH = ("torch==2.13.0",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A program with an environment of its own.

    Attributes:
        name: of the environment's folder.
        installs: arguments of one `pip install` after the other.
        uninstalls: what must not stay, since it breaks the import or reports home.
        needs: what a reader must know to install it; "" where a plain `pip install` is enough.
    """

    name: str
    installs: tuple[tuple[str, ...], ...]
    uninstalls: tuple[str, ...] = ()
    needs: str = ""


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="transformers",
            installs=(_TORCH, ("transformers", "accelerate")),
            needs="a C++ compiler for the compiled form",
        ),
        Peer(
            name="optimum-onnx",
            installs=(_TORCH, ("optimum-onnx[onnxruntime]==0.1.0",)),
            needs="transformers < 4.58, which it pins",
        ),
        Peer(
            name="ctranslate2",
            installs=(_TORCH, ("ctranslate2", "transformers<5.6")),
            needs="transformers < 5.6 and torch for its converter",
        ),
        Peer(
            name="openvino",
            # What optimum-intel 2 asks for but torchvision, whose newest brings another torch with gigabytes of CUDA.
            installs=(
                _TORCH,
                (
                    "transformers<5.6",
                    "optimum~=2.3.0",
                    "huggingface-hub<1.22",
                    "nncf",
                    "openvino-genai",
                    "requests",
                    "setuptools",
                ),
                ("--no-deps", "optimum-intel"),
            ),
            uninstalls=("openvino-telemetry",),
            needs="optimum-intel without torchvision, which it lists; transformers < 5.6",
        ),
        Peer(name="onnxruntime-genai", installs=(("onnxruntime-genai", "numpy"),)),
        Peer(name="onnxruntime", installs=(("onnxruntime", "numpy"),)),
    )
}
