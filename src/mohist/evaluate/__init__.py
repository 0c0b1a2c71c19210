"""Floor 6: what a model can do, with how much certainty, and whether another one can do more."""
