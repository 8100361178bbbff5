"""Samples in a folder, and how they are fed to a network.

For other packages: `store` (Samples), `selection` (which samples are taken), `preprocess` (feeds;
it travels to the devices, too).
"""
