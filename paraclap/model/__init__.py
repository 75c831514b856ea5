"""The model: towers, building, loading, publishing, ONNX."""
