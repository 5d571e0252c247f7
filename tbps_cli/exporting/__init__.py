"""Models as files for other programs: ONNX graphs, safetensors, open_clip's hub folder."""
