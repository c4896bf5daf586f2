"""Recipes: how the checkpoints in this repository were made."""
