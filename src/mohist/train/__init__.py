"""Floor 7: samples in, better weights out. Packing, losses, the optimiser, runs, and the visible loops."""
