"""Floor 5: problems and an engine in, graded groups of answers out."""
