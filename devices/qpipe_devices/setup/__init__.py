"""How ready a bare board is, and making it ready: Python is all that it needs to have."""
