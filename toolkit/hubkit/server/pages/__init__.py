"""The pages that a browser sees: rendered here, on the server, without a line of JavaScript."""
