"""Built-in stages of kind transform."""
