"""What the service can do, beside taking batches in: one class, one purpose each."""
