"""Values without I/O: records, requests, answers and the merge rule."""
