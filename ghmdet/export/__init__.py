"""A trained detector as one file, ONNX or `torch.export`; `python -m ghmdet.export` writes it."""
