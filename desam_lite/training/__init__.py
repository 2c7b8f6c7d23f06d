"""The training loop, the losses, and what the loop asks of a method."""
