"""Decisions as pure functions, one file a noun, and the committer that carries them out."""
