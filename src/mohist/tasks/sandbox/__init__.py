"""Where programs of models run: nothing outside is in reach, and time, memory and output are bounded."""
