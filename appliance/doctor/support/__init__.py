"""One archive for whoever is to help: what is in it, what is taken out of it, how it is written."""
