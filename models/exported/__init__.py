"""Networks that were exported elsewhere: `torch.export` archives, TorchScript and ONNX, with any head."""
