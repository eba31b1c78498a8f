"""Find the best network that runs within X milliseconds on your device, and ship the file."""

__version__ = "0.1.0"
