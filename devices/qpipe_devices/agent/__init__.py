"""What runs on a device: it travels as one zip file, in which this package is qpipe_agent.

It needs Python 3.8, the standard library and numpy.
"""
