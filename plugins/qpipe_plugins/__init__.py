"""The plugins that ship with qpipe."""
