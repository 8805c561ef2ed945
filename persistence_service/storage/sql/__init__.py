"""What backends on SQL databases share: tables, their migrations, and the translation of queries and of the merge rule."""
