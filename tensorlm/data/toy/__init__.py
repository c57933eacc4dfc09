"""A toy language with an exact distribution: its grammar, the corpus drawn from it, and prompts with known answers."""
