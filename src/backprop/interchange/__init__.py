"""Networks as files, and as objects of other libraries."""
