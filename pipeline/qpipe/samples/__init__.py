"""Samples in a folder, and how they are fed to a network.

For other packages: `store` (Samples), `selection` (which samples are taken), `preprocess` and
`sample_feeds` (how a network is fed; both travel to the devices, too).
"""
