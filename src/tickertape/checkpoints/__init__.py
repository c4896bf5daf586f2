"""A model's name to a verified, converted folder."""
