"""Data that qpipe draws itself."""
