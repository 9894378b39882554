"""The explorer: an HTML page in which the trained model runs in the browser."""
