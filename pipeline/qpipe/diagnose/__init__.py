"""Where a scheme loses accuracy: at each stage on its way to a device, and layer by layer.

For other packages: `scheme_networks` (make_case), `ladder` (climb), `layer_errors` (losses);
`range_fit` is a part of them.
"""
