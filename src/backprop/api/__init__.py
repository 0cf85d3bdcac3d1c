"""Python decides: what is accepted, what an error says, and which compiled call is run."""
