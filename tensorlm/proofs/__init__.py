"""What can be proven of bilinear layers from their weights."""
