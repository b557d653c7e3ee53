"""The Stepwell service: durable workflows over gRPC, kept in Postgres."""
