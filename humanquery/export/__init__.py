"""The network as a file for other runtimes: ONNX, OpenVINO, torch.export."""

from humanquery.export.write import export

__all__ = ["export"]
