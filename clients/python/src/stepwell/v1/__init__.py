"""The protocol's stubs, generated from proto/; change them there."""
