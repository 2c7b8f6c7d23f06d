"""Data nobody has to ask for: hospitals of phantoms, and the stream that trains the small encoder."""
