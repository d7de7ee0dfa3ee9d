"""Would a kernel of our own be faster than ONNX Runtime's MatMulNBits? A probe, and no part of the product."""
