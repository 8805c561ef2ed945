"""From accepted records to the backend: the buffer that merges them, and the flusher that writes them."""
