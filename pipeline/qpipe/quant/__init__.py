"""The arithmetic and the graph surgery that every algorithm shares; knows no recipe and no run.

For authors of plugins, and kept stable for them:

- qdq: the view of a network's weights, float or quantized, and how quantized ones are written
- activations: where activations become integers: QuantizeLinear, DequantizeLinear pairs
- arithmetic: quantize and dequantize in numpy, the reference for ONNX's operators
- codebook: the integer levels that weights may take: uniform, pot, apot
- scales: the scale of a weight, by extremes, percentile or least squares
- statistics: calibration statistics of each tensor
- ranges: the range of an activation, from its statistics
- graph: constants, initializers and names of an ONNX graph
- inference: ONNX Runtime sessions on the host
- sensitivity: what quantizing a part of a network costs its outputs
- layer_parts: the parts of a quantized network that are measured so, and what keeps one float
- sensitive_layers: the bits of first, last and depthwise layers
- training_curve: how training went, which a network carries along
- in_torch: networks computed by torch, so that they can be trained
- saturation: which pairs of weights x86 without VNNI sums exactly

Internal, and free to change:

- integer_operators, coverage: which operators run on integers, and why others do not
- biases: int32 biases, which compile writes
- target_check: whether a quantized network respects a target
- exact_sums: a network whose sums of products are exact where they saturate
- code_bounds: activations of fewer bits than their integers have
- weight_bits: how many bits a network's weights have
- moments, rounding, piecewise_inference, horizontal_flip: the parts of quantize `compensate`
- knapsack: the choice of quantize `mixed`
- external_data: the files beside an ONNX network that hold its tensors
"""
