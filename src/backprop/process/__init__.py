"""What this package does in its process besides computing: imports, interpreters, other libraries."""
