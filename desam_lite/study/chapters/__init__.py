"""What one notebook needs, one module per notebook, of its name."""
