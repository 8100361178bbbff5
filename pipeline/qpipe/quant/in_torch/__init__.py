"""An ONNX network as torch computes it, so that it can be trained; torch is the extra `train`.

For authors of plugins:

- operator_table: the operators that can be trained through; a plugin adds its own
- torch_network: the network itself, batches included

Only operator_table can be imported without torch.
"""
