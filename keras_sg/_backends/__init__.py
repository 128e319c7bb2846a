"""What backends do differently, below a training step."""
