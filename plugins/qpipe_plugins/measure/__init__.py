"""Built-in stages of kind measure."""
