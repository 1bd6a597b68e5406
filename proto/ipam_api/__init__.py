"""The public gRPC contract. Belongs to neither daemon: both import it, it imports neither."""
