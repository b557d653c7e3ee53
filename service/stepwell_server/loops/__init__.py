"""Duties that run on a clock under one leader, one file each."""
