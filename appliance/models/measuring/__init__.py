"""How far an artefact's answers are from its model's own, what it reads a token, and how fast it is here."""
