"""Bytes to samples to speech to windows."""
