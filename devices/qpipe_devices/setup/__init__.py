"""Making a bare board ready, and seeing how ready it is."""
