"""Runners that execute the networks with torch (CUDA or CPU) or with ONNX Runtime."""
