"""The page at `/` for a browser: one document, without a build step and without other addresses."""
