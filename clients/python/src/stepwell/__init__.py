"""Client and worker for Stepwell, the durable-workflow service."""
