"""What the stages that train share; all but its own name needs torch, the extra `train`."""
