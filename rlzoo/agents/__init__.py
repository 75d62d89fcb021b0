"""One package per paper, and the registry that names them all."""
