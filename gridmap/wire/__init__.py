"""Typed, limited, encrypted messages between the monitor and its agents."""
