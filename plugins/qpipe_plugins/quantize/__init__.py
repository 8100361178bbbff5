"""Built-in stages of kind quantize."""
