"""How the small encoder that ships is trained."""
