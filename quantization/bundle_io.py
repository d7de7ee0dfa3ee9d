"""Reading a float bundle's graph and weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from codegen_edge.bundle import Bundle
from codegen_edge.errors import BundleError, NumericsError
from codegen_edge.graph_io import ReadWeight, Weight, is_weight


def load_graph(bundle: Bundle) -> tuple[ir.Model, ReadWeight]:
    """A bundle's graph, and how its weights are read: mapped, one at a time.

    Raises:
        BundleError: the bundle is quantized already.
    """
    if bundle.manifest.precision != "fp32":
        raise BundleError(
            f"{bundle.path} is {bundle.manifest.precision} already; quantize the fp32 bundle that it was made of"
        )
    model = ir.load(bundle.model_path)
    tensors = {value.name: value.const_value for value in model.graph.initializers.values() if is_weight(value)}

    def read(name: str) -> Weight:
        tensor = tensors[name]
        assert tensor is not None
        weight: Weight = tensor.numpy()
        # min and max carry NaN and infinity along, without a mask as large as the tensor.
        if not np.isfinite((weight.min(initial=0), weight.max(initial=0))).all():
            raise NumericsError(f"{name} holds NaN or infinity; the bundle is broken")
        return weight

    return model, read
