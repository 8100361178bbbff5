"""What runs on a device: standard library and numpy, Python 3.8. It travels as one file, under the name qpipe_agent."""
