"""Python accepts or refuses arguments, words the errors, and chooses the compiled call."""
