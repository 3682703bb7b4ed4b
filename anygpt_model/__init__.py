"""Floor 0, the science: AnyGPT's networks, vocabulary and generation. Knows no framework and no database."""
