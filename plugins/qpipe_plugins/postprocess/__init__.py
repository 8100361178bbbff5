"""What turns a network's outputs into answers."""
