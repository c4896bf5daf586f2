"""Windows to text, batched."""
