"""The process around this package: its interpreter, and other libraries in it."""
