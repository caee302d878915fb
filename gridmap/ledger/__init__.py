"""What is durable of a run: its directory."""
