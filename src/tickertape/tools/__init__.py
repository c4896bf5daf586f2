"""What the command line does besides transcribing and serving. Nothing that serves imports it."""
