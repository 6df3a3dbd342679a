"""What computes translations: PyTorch for adapters, ONNX Runtime and OpenVINO for exported folders."""
