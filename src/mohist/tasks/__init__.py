"""Problems and the graders of their answers: text in, grades out. No model, no tokens, no PyTorch."""
