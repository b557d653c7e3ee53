"""What holds memory: live worker streams, capacity, matching, watches."""
