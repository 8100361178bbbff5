"""Samples in a folder, and how they are fed to a network."""
