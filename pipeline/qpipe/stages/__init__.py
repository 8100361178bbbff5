"""What a stage is and which there are: plugins found, signatures read as schemas."""
