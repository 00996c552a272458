"""Runners that execute the networks with torch (CUDA or CPU), ONNX Runtime or MNN."""
