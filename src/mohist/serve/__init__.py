"""The HTTP floor: models in front of programs and people. It needs the extra `serve`."""
