"""Decoded windows to transcripts, and transcripts to every format."""
