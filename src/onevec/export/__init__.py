"""What a fitted model becomes elsewhere: sentence-transformers, ONNX, the hub."""
