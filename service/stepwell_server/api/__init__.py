"""Servicers, one file a noun: parse, call, render."""
