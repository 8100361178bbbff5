"""Ways to reach a device, and the agent that runs on it."""
