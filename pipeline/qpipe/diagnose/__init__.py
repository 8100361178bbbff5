"""Where a scheme's accuracy goes: rung by rung from float to the device, and layer by layer."""
