"""Using a trained model: the Python interface, descriptions, search, the web page."""
