"""Runners of the networks on CUDA, torch on a CPU and ONNX Runtime."""
