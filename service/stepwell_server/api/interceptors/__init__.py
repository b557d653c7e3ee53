"""Everything that repeats with each call: refusals to statuses, spans, deadlines."""
