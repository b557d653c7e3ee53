"""What repeats for every call: errors, tracing, authentication, limits, deadlines."""
